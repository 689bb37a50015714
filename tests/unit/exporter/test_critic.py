"""Tests of imagemint.exporter.critic: the scores of the exported graph are those of PyTorch."""

import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from imagemint.engine.bundle import read_bundle
from imagemint.engine.filtering import Realness, compute_acceptance_chances
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.exporter import critic
from imagemint.exporter.card import format_card
from imagemint.exporter.critic import CriticParts, add_critic
from imagemint.exporter.errors import ExportError
from imagemint.exporter.files import write_graph
from imagemint.training.classifier.networks import DigitClassifier, to_network
from imagemint.training.datasets import LabelledImages
from imagemint.training.networks import ProjectionDiscriminator

LABELS = ("zero", "one", "two")
ABOUT = {
    "class_labels": list(LABELS),
    "recipe": "mnist-classifier",
    "sha256": "ab" * 32,
    "test_accuracy": 0.9,
}


def pictures(name, seed, count=60):
    """Returns noisy pictures of three classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), np.uint8)
    return LabelledImages(name, images, np.arange(count) % 3, LABELS, name)


@pytest.fixture(scope="module")
def parts():
    """Untrained networks that tell classes apart, and two splits of noise."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        classifier = DigitClassifier(3, width=4).eval().requires_grad_(requires_grad=False)
        discriminator = ProjectionDiscriminator(3, base_channels=4, image_channels=1)
        torch.nn.init.normal_(discriminator.embed.weight, std=0.1)  # 0 until it is trained
    return CriticParts(
        ("class", "discriminator", "copies"),
        classifier,
        ABOUT,
        discriminator.eval().requires_grad_(requires_grad=False),
        pictures("noise/train", 1),
        pictures("noise/test", 2),
        accepted_share=0.3,
    )


def with_critic(exported, parts, repository):
    """Returns a copy of a bundle with a critic, without another export of the generator."""
    directory = repository / "digits/1"
    shutil.copytree(exported.directory, directory)
    backend, manifest = OnnxBackend(exported, device="cpu"), deepcopy(exported.manifest)
    add_critic(directory, exported.spec, backend, manifest, parts)
    write_graph(directory, "model.onnx", onnx.load_model(directory / "model.onnx"), manifest)
    return read_bundle(directory)


@pytest.fixture(scope="module")
def bundle(exported, parts, tmp_path_factory):
    """A bundle with all scores."""
    return with_critic(exported, parts, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scores(bundle, parts):
    """The scores of the training images."""
    return OnnxCritic(bundle, bundle.critic).score(parts.train.images, parts.train.labels)


def test_confidence_is_that_of_the_classifier(scores, parts):
    """The confidence is the softmax of the classifier at the requested class."""
    odds = torch.softmax(parts.classifier(to_network(parts.train.images)), dim=1)
    wanted = odds[torch.arange(60), torch.from_numpy(parts.train.labels)].numpy()
    assert scores.class_confidence == pytest.approx(wanted, abs=1e-5)


def test_realness_is_the_calibrated_logit(bundle, scores, parts):
    """A growing linear function of the logit, with the maximum and the share of the manifest."""
    with torch.no_grad():
        x, y = to_network(parts.train.images), torch.from_numpy(parts.train.labels)
        logits = parts.discriminator(x, y).numpy()
    slope, offset = np.polyfit(logits, scores.realness, 1)
    assert slope > 0
    assert scores.realness == pytest.approx(slope * logits + offset, abs=1e-3)
    said = bundle.manifest.critic.realness
    assert said.accepted_share == pytest.approx(0.3, abs=0.01)
    assert "60 images of noise/test" in said.protocol
    chances = compute_acceptance_chances(scores.realness, Realness(said.maximum, said.shift))
    assert ((chances > 0) & (chances < 1)).all()


def test_calibration_is_that_of_all_batches(exported, bundle, parts, tmp_path, monkeypatch):
    """Images are judged some at a time, each with the class that belongs to it."""
    monkeypatch.setattr(critic, "_BATCH", 16)
    only = replace(parts, scores=("discriminator",))
    found = with_critic(exported, only, tmp_path).manifest.critic.realness
    whole = bundle.manifest.critic.realness
    assert found.protocol == whole.protocol
    assert (found.maximum, found.shift) == pytest.approx((whole.maximum, whole.shift), rel=1e-4)


@pytest.mark.parametrize("spread", [1, 1_000])
def test_share_is_accepted_at_any_spread(spread):
    """The shift is found also if the discriminator puts its logits far apart."""
    logits = np.linspace(-spread, 0, 200, dtype=np.float32)
    shift = critic._find_shift(logits, 0.0, 0.4)
    assert compute_acceptance_chances(logits, Realness(0.0, shift)).mean() == pytest.approx(0.4)


def test_copies_have_no_distance(bundle, scores, parts):
    """Training images are copies of themselves; the median test image has distance 1."""
    scorer = OnnxCritic(bundle, bundle.critic)
    unseen = scorer.score(parts.test.images, parts.test.labels).training_distance
    assert np.median(unseen) == pytest.approx(1, abs=0.1)
    assert scores.training_distance.max() < 0.1 < unseen.min()


def test_card_tells_the_scores(bundle):
    """The card describes how each score was measured."""
    card = format_card(bundle.manifest, 1, "PyTorch")
    assert "judge mnist-classifier, SHA-256 abababababababab, test accuracy 0.9000" in card
    assert "Rejection sampling accepted 30%" in card
    assert "Euclidean distance to the nearest of 60 images of noise/train" in card
    assert bundle.critic.scores.names == ("class_confidence", "realness", "training_distance")


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_graph_with_other_scores_is_refused(exported, parts, tmp_path, monkeypatch, wrong):
    """A critic whose graph scores otherwise than PyTorch, or gives no number, is not written."""
    build = critic.build_critic_graph

    def disturb(*arguments, **options):
        model = build(*arguments, **options)
        score = model.graph.output[0].name
        next(n for n in model.graph.node if score in n.output).output[0] = "right"
        model.graph.node.append(onnx.helper.make_node("Add", ["right", "wrong"], [score]))
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(wrong, np.float32), "wrong")
        )
        return model

    monkeypatch.setattr(critic, "build_critic_graph", disturb)
    only = replace(parts, scores=("class",))
    with pytest.raises(ExportError, match="differs from PyTorch in class_confidence by up to"):
        with_critic(exported, only, tmp_path)


def test_graph_that_does_not_run_is_refused(exported, parts, tmp_path, monkeypatch):
    """A server would refuse the whole bundle; the export says why."""
    build = critic.build_critic_graph

    def disturb(*arguments, **options):
        model = build(*arguments, **options)
        model.graph.node[0].op_type = "NotYetInvented"
        return model

    monkeypatch.setattr(critic, "build_critic_graph", disturb)
    with pytest.raises(ExportError, match=r"critic\.onnx does not run: .*NotYetInvented"):
        with_critic(exported, replace(parts, scores=("class",)), tmp_path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"classifier": None, "scores": ["class"]}, "needs a classifier"),
        ({"metadata": ABOUT | {"class_labels": ["a", "b", "c"]}}, "the classifier has the classes"),
        ({"scores": ["copies"], "train": None}, "needs the training and test images"),
        ({"scores": ["discriminator"], "discriminator": None}, "needs the discriminator"),
    ],
)
def test_what_does_not_fit_is_refused(exported, parts, tmp_path, changed, why):
    """The error names the missing part."""
    with pytest.raises(ExportError, match=why):
        with_critic(exported, CriticParts(**{**vars(parts), **changed}), tmp_path)


def test_class_score_needs_classes(exported, parts, tmp_path):
    """A model without classes has no probability of a class, and the error says so."""
    spec = replace(exported.spec, class_labels=())
    assert not spec.conditional
    backend = OnnxBackend(exported, device="cpu")
    with pytest.raises(ExportError, match="has no classes"):
        add_critic(tmp_path, spec, backend, exported.manifest, parts)
