"""Tests of `imagemint train` and `imagemint evaluate` with pairs and classes of one's own."""

import json

import numpy as np
import pytest
from PIL import Image
from small_translations import SMALL

from imagemint.client.cli import main
from imagemint.training.datasets.translations import load_pairs
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.translators import read_translator


def train(recipe, out, *words):
    """Runs `imagemint train` with tiny networks; returns its status."""
    fields = TRANSLATION_RECIPES[recipe].model_fields
    small = [
        word
        for name, value in SMALL.items()
        if name in fields
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return main(["train", recipe, "--out", str(out), "--device", "cpu", "--quiet", *small, *words])


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes of twenty noisy pictures each, 32x16."""
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    for kind in ("horses", "zebras"):
        (tmp_path / "animals" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (16, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"animals/{kind}/{number}.png")
    return tmp_path / "animals"


def read_metrics(run):
    """Returns the names of the figures of a run."""
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    figures = json.loads((run / "evaluation/figures.json").read_text())["figures"]
    return {figure["metric"] for figure in figures}


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch):
    """Four test pictures can be compared."""
    module = "imagemint.training.evaluation.translation.evaluating"
    monkeypatch.setattr(f"{module}._COMPARABLE", 2)


def test_halves_are_learnt(pictures, tmp_path, capsys):
    """--pairs is remembered by the run, which resumes and is measured."""
    run, data = tmp_path / "run", ["--dataset", str(pictures), "--pairs", "left-to-right"]
    assert train("pix2pix", run, *data) == 0
    assert read_translator(run).dataset == "left-to-right of animals/train"
    assert main(["train", "pix2pix", "--out", str(run), "--resume", "--images", "32"]) == 0
    assert {"psnr", "psnr@identity"} <= read_metrics(run)
    other = ["--resume", "--images", "40", "--pairs", "right-to-left"]
    capsys.readouterr()
    assert main(["train", "pix2pix", "--out", str(run), *other]) == 1
    assert "'left-to-right of animals/train' there" in capsys.readouterr().err


def test_remarks_on_pairs_leave_out_labels(pictures, tmp_path, caplog, capsys):
    """The log and the dry run have the remarks, but none on labels, which pairs do not use."""
    maps = tmp_path / "maps"
    for split, names in (("train", "01234"), ("test", "56"), ("val", "7")):
        (maps / split).mkdir(parents=True)
        for name in names:
            (pictures / f"zebras/{name}.png").rename(maps / f"{split}/{name}.png")
    data = ["--dataset", str(maps), "--pairs", "left-to-right", "--dry-run"]
    assert train("pix2pix", tmp_path / "run", *data) == 0
    assert "no labels" not in caplog.text
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("the validation split is not used" in each for each in warnings)
    assert "the validation split is not used" in caplog.text


def test_halves_are_refused(pictures, tmp_path, capsys):
    """Some recipes take only the sources that they make, and the published data have no halves."""
    run, halves = tmp_path / "run", ["--pairs", "left-to-right"]
    assert train("inpaint", run, *halves, "--dataset", str(pictures)) == 1
    assert "recipe inpaint makes its sources itself" in capsys.readouterr().err
    assert train("pix2pix", run, *halves) == 1
    assert "needs pictures of yours: name them by --dataset" in capsys.readouterr().err


def test_halves_of_several_sizes_are_scaled(tmp_path):
    """--size brings the halves of all pictures to one size; each keeps its own middle."""
    folder = tmp_path / "maps"
    (folder / "train/all").mkdir(parents=True)
    for number, (height, width) in enumerate([(16, 32), (16, 64), (32, 48)]):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, width // 2 :] = 200
        Image.fromarray(pixels).save(folder / f"train/all/{number}.png")
    pairs = load_pairs("left-to-right", "train", dataset=str(folder), size=16)
    sources, targets = pairs.make_examples(np.arange(3))
    assert sources.shape == targets.shape == (3, 16, 16, 3)
    assert (sources.max(), targets.min()) == (0, 200)


def test_class_without_test_pictures_is_named(pictures, tmp_path, capsys):
    """A class of fewer than ten pictures leaves none to measure with."""
    for number in range(9, 20):
        (pictures / f"zebras/{number}.png").unlink()
    assert train("cyclegan", tmp_path / "run", "--dataset", str(pictures), "--size", "16") == 1
    said = capsys.readouterr().err
    assert "animals/test has no pictures of class 'zebras'" in said
    assert "it needs at least ten" in said


def test_run_that_cannot_start_leaves_nothing(pictures, tmp_path, capsys):
    """A missing judge is an error before the folder of the run is made."""
    run = tmp_path / "run"
    assert train("srgan", run, "--dataset", str(pictures), "--size", "16") == 1
    assert "name its directory by --judge" in capsys.readouterr().err
    assert not run.exists()


def test_two_classes_are_learnt(pictures, tmp_path):
    """Cyclegan translates between the two folders, and is measured without true targets."""
    run = tmp_path / "run"
    assert train("cyclegan", run, "--dataset", str(pictures), "--size", "16") == 0
    trained = read_translator(run)
    assert (trained.task, trained.dataset) == ("classes", "classes of animals/train")
    metrics = read_metrics(run)
    assert "cycle_error" in metrics
    assert "psnr" not in metrics


def test_results_are_compared_with_as_many_targets(pictures, tmp_path):
    """A target is not counted twice: with fewer targets, fewer results are measured."""
    for number in range(20, 50):
        (pictures / f"horses/{number}.png").write_bytes((pictures / "horses/0.png").read_bytes())
    run = tmp_path / "run"
    assert train("cyclegan", run, "--dataset", str(pictures), "--size", "16") == 0
    assert "sharpness" in read_metrics(run)
    figures = json.loads((run / "evaluation/figures.json").read_text())["figures"]
    assert [figure["sample_size"] for figure in figures if figure["metric"] == "sharpness"] == [2]


def test_missing_source_is_named(tmp_path, capsys):
    """`imagemint evaluate` of nothing does not ask for a classifier."""
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 1
    assert capsys.readouterr().err == f"imagemint evaluate: {tmp_path / 'run'} does not exist\n"


def test_missing_data_are_tried_once(tmp_path, capsys):
    """The error names an absolute path once, although it is the same in every folder."""
    missing = str(tmp_path / "none")
    assert train("pix2pix", tmp_path / "run", "--dataset", missing) == 1
    assert f"(tried {missing})" in capsys.readouterr().err
