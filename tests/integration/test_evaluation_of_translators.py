"""Tests of `imagemint evaluate` for translators: a bundle and a server score like their engine."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_translations import pictures
from tiny_bundles import write_bundle
from tiny_translators import write_translator

from imagemint.client.cli import main
from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.training import datasets
from imagemint.training.datasets.translations import load_pairs
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation import evaluate_translator, open_translator
from imagemint.training.metrics import peak_signal_noise_ratio

pytestmark = pytest.mark.asyncio(loop_scope="module")

CPU = torch.device("cpu")
COUNT = 12
FORMS = {
    "fixed": ("images of toy/train", {"size": (16, 16)}),
    "free": ("images of toy/train", {"largest": (24, 32)}),
    "drawn": ("images of toy/train", {"size": (16, 16), "z_dim": 4, "conditional": True}),
    "large": ("low-resolution of toy/train", {"size": (4, 4), "scale": 4}),
    "small": ("images of toy/train", {"size": (12, 12)}),
}


def tell(trained_on):
    """Returns a function that writes into a manifest what the model learnt from."""

    def edit(manifest):
        manifest.training.dataset = trained_on

    return edit


@pytest.fixture(scope="module")
def measurable(tmp_path_factory):
    """A translator of each form that says what it learnt from, two that do not, and `digits`."""
    directory = tmp_path_factory.mktemp("measurable")
    for name, (trained_on, form) in FORMS.items():
        write_translator(directory, name, edit_manifest=tell(trained_on), **form)
    write_translator(directory, "untold", size=(16, 16))
    back = tell("images of toy/train, way back")
    write_translator(directory, "back", size=(16, 16), edit_manifest=back)
    write_bundle(directory, "digits")
    return directory


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    """Replaces the data set `toy` by noisy pictures."""
    seeds = {"train": 3, "test": 4}
    monkeypatch.setitem(datasets.DATASETS, "toy", lambda split, _: pictures(seeds[split], COUNT))


def compute_quality(measurable, name):
    """Returns the PSNR of the engine's results on the test split, and the digest of the bundle."""
    task = FORMS[name][0].partition(" ")[0]
    test = load_pairs(task, "test", dataset="toy", size=12 if name == "small" else None)
    sources, truth = test.make_examples(np.arange(COUNT))
    bundle = read_bundle(measurable / name / "1")
    batch = draw_batch(bundle.spec, 0, 0, COUNT, sources.shape[1:3])
    batch.source[:] = sources
    results = OnnxBackend(bundle, device="cpu").run(batch)
    return peak_signal_noise_ratio(results, truth).mean(), bundle.sha256


def measure(place, out=None):
    """Returns what is opened and its figures by name."""
    translator = open_translator(str(place), CPU)
    try:
        figures = evaluate_translator(translator, None, None, out=out)
    finally:
        translator.close()
    return translator, {figure.metric: figure for figure in figures}


async def test_bundle_and_server_score_like_the_engine(measurable, serve, tmp_path):
    """Every form of translator has the same figures and baselines in both places."""
    address = (await serve(measurable)).grpc_address
    for name in FORMS:
        quality, digest = compute_quality(measurable, name)
        bundle, own = await asyncio.to_thread(measure, measurable / name / "1", tmp_path / name)
        served, others = await asyncio.to_thread(measure, f"grpc://{address}/{name}@1")
        assert own["psnr"].value == others["psnr"].value == pytest.approx(quality), name
        assert {key: it.value for key, it in own.items()} == {
            key: it.value for key, it in others.items()
        }
        assert {"ssim", "psnr@bicubic" if name == "large" else "psnr@identity"} <= own.keys()
        assert (bundle.sha256, served.sha256) == (digest, digest)
        assert f"bundle {name}@1" in own["psnr"].protocol
        assert f"{name}@1 served at" in others["psnr"].protocol
        assert (tmp_path / name / "pairs.png").is_file()


async def test_other_data_are_converted(measurable, serve, monkeypatch):
    """`--dataset` takes data of another size and of gray images."""

    def make_gray(split, _):
        data = pictures({"train": 5, "test": 6}[split], COUNT)
        return replace(data, images=np.ascontiguousarray(data.images[:, :9, :9, :1]))

    monkeypatch.setitem(datasets.DATASETS, "gray", make_gray)
    address = (await serve(measurable)).grpc_address
    found = []
    for place in (str(measurable / "fixed/1"), f"grpc://{address}/fixed@1"):
        translator = await asyncio.to_thread(open_translator, place, CPU)
        figures = await asyncio.to_thread(
            evaluate_translator, translator, None, None, dataset="gray"
        )
        translator.close()
        found.append({figure.metric: figure.value for figure in figures})
    assert found[0] == found[1]
    assert "psnr" in found[0]


async def test_what_cannot_be_measured_is_refused(measurable, serve):
    """The error says what is missing. Models without a source are none of translators."""
    address = (await serve(measurable)).grpc_address
    for place in (f"grpc://{address}", str(measurable)):
        version = "" if place.startswith("grpc") else "/1"
        with pytest.raises(DatasetError, match=r"untold@1.* are unknown"):
            await asyncio.to_thread(open_translator, f"{place}/untold{version}", CPU)
        with pytest.raises(DatasetError, match="measure the run"):
            await asyncio.to_thread(open_translator, f"{place}/back{version}", CPU)
        assert await asyncio.to_thread(open_translator, f"{place}/digits{version}", CPU) is None


async def test_command_measures_a_bundle(measurable, capsys):
    """`imagemint evaluate BUNDLE` prints the figures and the baselines."""
    words = ["evaluate", str(measurable / "fixed/1"), "--device", "cpu"]
    assert await asyncio.to_thread(main, words) == 0
    printed = capsys.readouterr().out
    assert "psnr@identity" in printed
    assert "ms_ssim" in printed
    assert await asyncio.to_thread(main, [*words, "--seeds", "3"]) == 1
    assert "--seeds have no effect on a translator" in capsys.readouterr().err


async def test_large_sources_need_a_server(measurable, monkeypatch):
    """A bundle has no tiles; the error names the address to measure."""
    large = pictures(4, COUNT)
    object.__setattr__(large, "images", large.images.repeat(3, axis=1).repeat(3, axis=2))
    monkeypatch.setitem(datasets.DATASETS, "toy", lambda *_: large)
    with pytest.raises(DatasetError, match="grpc://HOST:PORT/free"):
        await asyncio.to_thread(measure, measurable / "free/1")
