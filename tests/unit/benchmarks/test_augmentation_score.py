"""Tests of benchmarks/augmentation/score.py."""

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundles import DIGITS, write_bundle

from imagemint.dataset.engine_source import EngineSource
from imagemint.engine.sampling import draw_latents
from imagemint.training.datasets import LabelledImages, avatars
from imagemint.training.networks.attributes import Condition

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def score():
    """The program as a module, which imports another one of its folder."""
    path = ROOT / "benchmarks/augmentation/score.py"
    spec = importlib.util.spec_from_file_location("augmentation_score", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


@pytest.fixture
def digits():
    """Fifty images of the classes of digits."""
    images = np.zeros((50, 4, 6, 1), np.uint8)
    return LabelledImages("some/train", images, np.arange(50) % 10, DIGITS, "ab")


def test_synthetic_images_are_balanced_and_have_serials(score, digits, tmp_path):
    """Each class has as many images, which come from the source in order of index."""
    write_bundle(tmp_path, "digits")
    source = EngineSource("digits", repository=tmp_path, seed=3, classes=[], device="cpu")
    drawn = score.draw_images(source, 300, digits)
    assert np.bincount(drawn.labels).tolist() == [30] * 10
    assert np.array_equal(drawn.images[257], source.read(257, 1).image[0])
    assert drawn.name == "digits@1/3"
    assert drawn.sha256 == score.draw_images(source, 300, digits).sha256


def test_real_images_are_selected_by_seed(score, digits):
    """The same seed selects the same images, each once, or all of them."""
    one, again, other = (score.choose_images(digits, 20, seed) for seed in (1, 1, 2))
    assert one.sha256 == again.sha256 != other.sha256
    assert score.choose_images(digits, 50, 1) is digits
    with pytest.raises(SystemExit, match="has 50 images, not 51"):
        score.choose_images(digits, 51, 1)


def test_summary_pairs_the_seeds(score):
    """The interval is that of the differences of whole pairs; what is missing is listed."""
    scores = {
        1: {"real": 0.9, "synthetic": 0.91},
        2: {"real": 0.8, "synthetic": 0.82},
        3: {"real": 0.7, "synthetic": 0.73},
        4: {"real": 0.1},
    }
    found = score.summarise(scores, 5)
    assert found["synthetic_minus_real"] == pytest.approx(0.02)
    assert found["interval_95"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert found["not_run"] == ["synthetic, seed 4", "real, seed 5", "synthetic, seed 5"]
    assert score.summarise({1: scores[1]}, 1)["interval_95"] is None
    assert "mean" not in score.summarise({4: scores[4]}, 4)


def test_results_of_other_settings_are_refused(score, tmp_path):
    """A folder has the results of one experiment."""
    options = Namespace(
        out=tmp_path / "out", dataset="mnist", model="mnist", images=None, width=None, epochs=8
    )
    score.check_settings(options)
    score.check_settings(options)
    kept = json.loads((tmp_path / "out/settings.json").read_text())
    assert (kept["width"], kept["epochs"]) == (32, 8)
    with pytest.raises(SystemExit, match="results of other settings"):
        score.check_settings(Namespace(**vars(options) | {"epochs": 9}))


def test_record_has_each_attribute(score):
    """Attributes have means and differences of their own beside the class."""
    found = {
        1: {
            "real": {"class": 1.0, "beard": 0.9},
            "synthetic": {"class": 0.9, "beard": 0.7},
        },
        2: {"real": {"class": 0.8, "beard": 0.8}},
    }
    record = score.make_record({"dataset": "avatars64"}, found, 2)
    assert record["accuracy"] == {1: {"real": 1.0, "synthetic": 0.9}, 2: {"real": 0.8}}
    assert record["not_run"] == ["synthetic, seed 2"]
    assert record["attributes"]["beard"]["synthetic_minus_real"] == pytest.approx(-0.2)
    assert "attributes" not in score.make_record({}, {1: {"real": {"class": 1.0}}}, 1)


def test_record_is_continued(score, tmp_path, monkeypatch):
    """What a record has is not measured again, whatever is in the folder of the results."""
    record = tmp_path / "record.json"
    arguments = ["score.py", "--out", str(tmp_path / "out"), "--record", str(record)]
    measured = []

    def measure(_, arm, seed):
        measured.append((arm, seed))
        return {"class": 0.9, "beard": 0.1 * seed}

    monkeypatch.setattr(score, "measure", measure)
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "1"])
    score.main()
    first = json.loads(record.read_text())
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "2"])
    score.main()
    assert measured == [(arm, seed) for seed in (1, 2) for arm in score.ARMS]
    second = json.loads(record.read_text())
    assert second["accuracy"]["1"] == first["accuracy"]["1"] == {"real": 0.9, "synthetic": 0.9}
    assert second["attributes"]["beard"]["mean"]["real"] == pytest.approx(0.15)
    arguments[2] = str(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "argv", [*arguments, "--epochs", "9"])
    with pytest.raises(SystemExit, match="results of other settings"):
        score.main()


def test_attributes_are_those_that_the_latent_chooses(score):
    """They equal those that the generator's own layer reads from the latent."""
    frequencies = {name: avatars.compute_frequencies(name) for name in avatars.VALUES}
    layer = Condition(32, len(avatars.STYLES), c_dim=1, frequencies=frequencies)
    z = draw_latents(3, 0, 200, 32)
    labels = np.arange(200) % len(avatars.STYLES)
    found = score.people.choose_attributes(z, labels)
    codes = layer.compute_codes(torch.from_numpy(z), torch.from_numpy(labels))
    assert np.array_equal(np.stack([each.codes for each in found], axis=1), codes.numpy())
    hats = next(each for each in found if each.name == "hat")
    assert np.array_equal(hats.visible, labels < 4)
