"""Tests of imagemint.engine.onnx.critic, and of the checks of critic.onnx."""

import numpy as np
import onnx
import pytest
from tiny_bundles import write_bundle, write_critic, write_sums

from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.engine.trial.trials import is_plain
from imagemint.v1 import manifest_pb2 as pb


@pytest.fixture
def directory(tmp_path):
    """A bundle with a critic."""
    directory = write_bundle(tmp_path, "digits")
    write_critic(directory)
    return directory


def test_scores_do_not_depend_on_the_batch(directory):
    """A single image has the same scores as in a batch."""
    bundle = read_bundle(directory)
    critic = OnnxCritic(bundle, bundle.critic)
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 1), np.uint8)
    classes = np.arange(9)
    scores = critic.score(images, classes).by_name()
    assert list(scores) == ["class_confidence", "realness", "training_distance"]
    mean = images.mean(axis=(1, 2, 3)) / 255
    assert scores["class_confidence"] == pytest.approx(np.abs(classes % 2 - mean), abs=1e-6)
    for row in range(9):
        alone = critic.score(images[row : row + 1], classes[row : row + 1]).by_name()
        assert all(alone[name].tobytes() == scores[name][row].tobytes() for name in scores)
    critic.close()
    with pytest.raises(BackendFailed, match="closed"):
        critic.score(images, classes)


def test_no_images_have_no_scores(directory):
    """An empty batch has empty scores."""
    bundle = read_bundle(directory)
    found = OnnxCritic(bundle, bundle.critic).score(np.empty((0, 4, 6, 1), np.uint8), np.empty(0))
    assert found.realness.shape == (0,)


def test_bundle_without_critic_has_none(tmp_path):
    """A critic is optional."""
    assert read_bundle(write_bundle(tmp_path)).critic is None


def test_critic_counts_for_the_trial(directory):
    """A small critic needs no trial, but one above the limit of plain files does."""
    bundle = read_bundle(directory)
    assert is_plain(bundle)
    object.__setattr__(bundle.critic, "size", 17 * 2**20)
    assert not is_plain(bundle)


def _drop_file(directory):
    (directory / "critic.onnx").unlink()


def _swap_file(directory):
    path = directory / "critic.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")


def _edit_graph(change):
    def edit(directory):
        model = onnx.load_model(directory / "critic.onnx")
        change(model.graph)
        (directory / "critic.onnx").write_bytes(model.SerializeToString())

    return edit


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_drop_file, "does not list critic.onnx"),
        (_swap_file, "critic.onnx is not the file that model.onnx declares"),
    ],
)
def test_another_file_is_refused(directory, damage, why):
    """The manifest of model.onnx names the digest of the critic."""
    damage(directory)
    write_sums(directory)
    with pytest.raises(BundleRefused, match=why):
        read_bundle(directory)


def _random_node(graph):
    graph.node.add(op_type="RandomNormal", output=["noise"])


def _another_output(graph):
    graph.output[0].name = "mean"


@pytest.mark.parametrize(
    ("change", "why"),
    [(_random_node, "random node: RandomNormal"), (_another_output, "outputs are mean, realness")],
)
def test_unfit_graphs_are_refused(tmp_path, change, why):
    """A critic must pass the checks of a generator, with its own inputs and outputs."""
    directory = write_bundle(tmp_path, "digits")
    path = write_critic(directory)
    _edit_graph(change)(directory)
    digest = __import__("hashlib").sha256(path.read_bytes()).hexdigest()
    edited = path.read_bytes()
    write_critic(directory, edit=lambda manifest: setattr(manifest.critic, "sha256", digest))
    path.write_bytes(edited)
    write_sums(directory)
    with pytest.raises(BundleRefused, match=f"critic.onnx: .*{why}"):
        read_bundle(directory)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda m: m.critic.ClearField("sha256"), "critic.sha256"),
        (lambda m: [m.critic.ClearField(n) for n in ("realness",)], "outputs are"),
        (lambda m: setattr(m.critic.realness, "maximum", float("nan")), "not finite"),
        (lambda m: setattr(m.critic.realness, "accepted_share", 2.0), "accepted_share"),
    ],
)
def test_faulty_manifests_are_refused(tmp_path, edit, why):
    """The entry of the critic in the manifest is checked."""
    directory = write_bundle(tmp_path, "digits")
    write_critic(directory, edit=edit)
    with pytest.raises(BundleRefused, match=why):
        read_bundle(directory)


def test_confidence_needs_classes(tmp_path):
    """A model without classes has no class confidence."""
    directory = write_bundle(tmp_path, "plain", conditional=False)
    write_critic(directory)
    with pytest.raises(BundleRefused, match="class_confidence needs class_labels"):
        read_bundle(directory)


def test_a_translator_has_no_critic(tmp_path):
    """Scores belong to images that have a serial and other candidates."""
    directory = write_bundle(tmp_path, "digits")
    source = pb.SourceSpec(height=4, width=6, channels=1)
    write_critic(directory, edit=lambda manifest: manifest.source.CopyFrom(source))
    with pytest.raises(BundleRefused, match="critic and source are both given"):
        read_bundle(directory)
