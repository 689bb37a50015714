"""Tests of benchmarks/augmentation/filters.py."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundles import write_bundle, write_critic

from imagemint.client import Filter
from imagemint.engine.filtering import INDEX_END
from imagemint.engine.serial import Serial

FOLDER = Path(__file__).parents[3] / "benchmarks/augmentation"


@pytest.fixture(scope="module")
def filters():
    """The program as a module, which imports others of its folder."""
    sys.path.append(str(FOLDER))
    spec = importlib.util.spec_from_file_location("augmentation_filters", FOLDER / "filters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


def test_conditions_are_those_of_the_critic(filters, tmp_path):
    """A condition without its score is left out."""
    write_critic(write_bundle(tmp_path, "judged"), ("realness",))
    options = Namespace(model="judged", repository=tmp_path)
    assert filters.choose_conditions(options) == ["none", "--rejection-sampling"]


def test_share_counts_every_candidate(filters, tmp_path, monkeypatch):
    """All images pass, with the classes in turn, and rejected candidates count for the share."""
    write_critic(write_bundle(tmp_path, "judged"))
    kept = {"bright": Filter(min_class_confidence=0.5, max_tries=1_000)}
    monkeypatch.setattr(filters, "CONDITIONS", kept)
    options = Namespace(model="judged", repository=tmp_path, images=300)
    share = filters.draw(options, "bright", 3, tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as found:
        assert found["image"].shape == (300, 4, 6, 1)
        assert found["class_id"].tolist() == [index % 10 for index in range(300)]
        confidence = found["image"].mean(axis=(1, 2, 3)) / 255
        odd = found["class_id"] % 2 == 1
    assert np.where(odd, 1 - confidence, confidence).min() >= 0.499
    source = filters.open_source(options, 3, kept["bright"])
    serials = [Serial.parse(serial) for serial in source.read(0, 300).serials]
    source.close()
    assert share == 300 / sum(1 + serial.index // INDEX_END for serial in serials) < 0.5


def test_differences_are_paired_by_seed(filters):
    """A metric is compared with the images of the same seed without a condition."""
    found = {
        "none": {0: {"recall": 0.5}, 1: {"recall": 0.7}},
        "some": {0: {"recall": 0.4}, 1: {"recall": 0.65}},
        "other": {},
    }
    summary = filters.summarise(found)
    assert summary["none"]["recall"] == {"mean": pytest.approx(0.6)}
    assert summary["some"]["recall"]["difference"] == pytest.approx(-0.075)
    assert summary["some"]["recall"]["interval_95"] == pytest.approx(12.706 * 0.025, rel=1e-3)
    assert summary["other"] == {"seeds": 0}
