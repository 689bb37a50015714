"""Tests of the export of translators: the engine gives the results of PyTorch at every size."""

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image
from small_translations import small_task, train

from imagemint.client.cli import main
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter import parity, translation
from imagemint.exporter.draft import GraphOptions
from imagemint.exporter.errors import ExportError
from imagemint.exporter.translation import export_translator, run_translator
from imagemint.training import evaluation
from imagemint.training.errors import CheckpointError
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.recipes.translation import TranslationRecipe
from imagemint.training.translators import is_translator, read_translator


@pytest.fixture(autouse=True)
def _compare_few(monkeypatch):
    """A thousand sources take ten times as long, and large ones in the probe of a backend."""
    monkeypatch.setattr(parity, "SAMPLES", 64)
    monkeypatch.setattr(TranslationRecipe, "max_side", 24)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Returns a function that returns the run of a recipe, trained once."""
    runs = {}

    def get(name):
        if name not in runs:
            runs[name] = tmp_path_factory.mktemp(name)
            task = small_task(TRANSLATION_RECIPES[name], images=8)
            train(task, runs[name])
        return runs[name]

    return get


def list_axes(values):
    """Returns name or length of each axis of inputs or outputs."""
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


# tests/integration/translation/test_trained.py serves every recipe. These differ in their sources.
@pytest.mark.parametrize("name", ["pix2pix", "inpaint", "next-frame"])
def test_recipe_is_served_as_trained(run_of, name, tmp_path):
    """The engine translates the examples like PyTorch, and the manifest describes the source."""
    trained = read_translator(run_of(name))
    bundle = export_translator(trained, name=name, repository=tmp_path)
    source = bundle.spec.source
    assert source.depth == trained.form.depth
    assert (source.channels, source.frames, source.has_mask, source.scale) == (
        *(trained.form.channels, trained.form.frames, trained.form.mask, trained.form.scale),
    )
    assert list(bundle.spec.inputs) == ["source"]
    sources = trained.examples.source
    served = OnnxBackend(bundle, device="cpu").run(Batch(source=sources))
    assert served.shape == trained.examples.target.shape
    expected = run_translator(trained, Batch(source=sources))
    assert np.abs(served.astype(int) - expected).max() <= 1
    assert served.std() > 0


def test_free_size_is_compared_at_other_sizes(run_of, tmp_path):
    """A translator of any size has its tiles described, and is right at sizes it never saw."""
    trained = read_translator(run_of("srgan"))
    bundle = export_translator(trained, name="large", repository=tmp_path)
    source = bundle.spec.source
    assert source.is_free
    assert source.is_tiled
    assert source.overlap == trained.module.radius
    assert bundle.manifest.parity.samples == 64 + 12
    graph = onnx.load(bundle.model_path).graph
    assert list_axes(graph.input) == [["N", "H", "W", 3]]
    assert list_axes(graph.output) == [["N", "4*H", "4*W", 3]]
    backend = OnnxBackend(bundle, device="cpu")
    rng = np.random.Generator(np.random.Philox(key=[0, 9]))
    for height, width in ((1, 1), (5, 9), (20, 7)):
        batch = Batch(source=rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8))
        served = backend.run(batch)
        assert served.shape == (2, 4 * height, 4 * width, 3)
        assert np.abs(served.astype(int) - run_translator(trained, batch)).max() <= 1


def test_export_command_writes_everything(run_of, tmp_path, capsys):
    """The command recognises the run of a translator, and writes card, samples and digests."""
    run = str(run_of("pix2pix"))
    assert main(["export", run, "--name", "s", "--repository", str(tmp_path)]) == 0
    assert "s@1" in capsys.readouterr().out
    directory = tmp_path / "s/1"
    card = (directory / "card.md").read_text()
    assert "Source: gray; 16 x 16 pixels. Result:\nRGB, 16 x 16 pixels." in card
    assert "imagemint translate" in card
    assert "| l1_weight | 10.0 |" in card
    assert "Compared with PyTorch on 64 sources" in card
    for line in (directory / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest
    graph = onnx.load(directory / "model.onnx").graph
    assert not {node.op_type for node in graph.node} & {"If", "Loop", "BatchNormalization"}
    assert [value.name for value in graph.input] == ["source"]


@pytest.mark.parametrize("given", [["--critic", "discriminator"], ["--threshold-minimum", "0.5"]])
def test_command_refuses_options_of_generators(run_of, tmp_path, capsys, given):
    """Options that have no effect on a translator are named."""
    arguments = ["--name", "s", "--repository", str(tmp_path), *given]
    assert main(["export", str(run_of("pix2pix")), *arguments]) == 1
    assert f"{given[0]} needs a generator, and" in capsys.readouterr().err


def test_command_refuses_variants(run_of, tmp_path, monkeypatch, capsys):
    """The command says that a translator has no variants."""
    monkeypatch.setattr(evaluation, "open_extractor", lambda *_: (None, None))
    arguments = ["--name", "s", "--repository", str(tmp_path)]
    arguments += ["--precision", "int8", "--classifier", str(tmp_path)]
    assert main(["export", str(run_of("pix2pix")), *arguments]) == 1
    assert "variants are compared by the images of serials" in capsys.readouterr().err


def test_samples_show_source_result_truth(run_of, tmp_path):
    """Each row has the source, the result of the engine, and the true image."""
    trained = read_translator(run_of("pix2pix"))
    bundle = export_translator(trained, name="s", repository=tmp_path)
    sheet = np.asarray(Image.open(bundle.directory / "samples.png"))
    result = OnnxBackend(bundle, device="cpu").run(Batch(source=trained.examples.source[:1]))[0]
    tiles = [sheet[2:18, 2 + 18 * column : 18 + 18 * column] for column in range(3)]
    assert np.array_equal(tiles[0], trained.examples.source[0].repeat(3, axis=2))
    assert np.array_equal(tiles[1], result)
    assert np.array_equal(tiles[2], trained.examples.target[0])


def test_way_back_is_a_model_of_its_own(run_of, tmp_path):
    """Both directions of a cycle can be exported; other translators have one direction."""
    there, back = (read_translator(run_of("cyclegan"), way) for way in ("there", "back"))
    assert np.array_equal(back.examples.source, there.examples.target)
    bundles = [
        export_translator(each, name=each.direction, repository=tmp_path) for each in (there, back)
    ]
    batch = Batch(source=there.examples.source)
    images = [OnnxBackend(bundle, device="cpu").run(batch) for bundle in bundles]
    assert not np.array_equal(*images)
    with pytest.raises(CheckpointError, match="pix2pix learns only one direction"):
        read_translator(run_of("pix2pix"), "back")


def test_difference_ends_the_export(run_of, tmp_path, monkeypatch):
    """A graph that differs from PyTorch is not written."""
    expected = translation.run_translator
    monkeypatch.setattr(translation, "run_translator", lambda *a: expected(*a)[:, ::-1])
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_translator(read_translator(run_of("pix2pix")), name="s", repository=tmp_path)
    assert not list(tmp_path.glob("s/*"))


def test_variants_are_refused(run_of, tmp_path):
    """A translator has no serials for comparing the images of a variant."""
    trained = replace(read_translator(run_of("pix2pix")), images_seen=1)
    with pytest.raises(ExportError, match="a translator has none"):
        export_translator(
            trained, name="s", repository=tmp_path, graph_options=GraphOptions(variants=["int8"])
        )


def test_runs_are_told_apart(run_of, tmp_path):
    """The run of a translator is recognised; a folder without checkpoints is an error."""
    assert is_translator(run_of("pix2pix"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        is_translator(tmp_path)
