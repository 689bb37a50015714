"""Tests of benchmarks/augmentation/few_data.py."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import DatasetError

FOLDER = Path(__file__).parents[3] / "benchmarks/augmentation"


@pytest.fixture(scope="module")
def few_data():
    """The program as a module, which imports others of its folder."""
    sys.path.append(str(FOLDER))
    spec = importlib.util.spec_from_file_location("few_data", FOLDER / "few_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


def images(name, count, level):
    """Returns images of one level each, with ten classes in turn."""
    pixels = np.full((count, 28, 28, 1), level, np.uint8)
    labels = tuple("0123456789")
    return LabelledImages(name, pixels, np.arange(count) % 10, labels, name)


def test_real_images_are_half_of_a_mix(few_data):
    """Few real images are repeated; many are used once."""
    mixed = few_data.join(images("real", 20, 1), images("synthetic", 100, 2))
    assert (mixed.images == 1).all(axis=(1, 2, 3)).sum() == 100
    assert np.bincount(mixed.labels).tolist() == [20] * 10
    assert len(few_data.join(images("real", 300, 1), images("synthetic", 100, 2))) == 400


def test_differences_are_paired_by_seed(few_data):
    """An arm is compared with the seeds of the other one, and a filter with the arm without it."""
    base = dict.fromkeys(few_data.ARMS, 0.5)
    done = {
        "10": {
            "1": base | {"mixed": 0.6},
            "2": base | {"mixed": 0.8, "mixed-filtered": 0.7},
            "3": {"real": 0.1},
        },
        "all": {},
    }
    found = few_data.summarise(done)
    assert list(found) == ["10"]
    assert found["10"]["real"]["seeds"] == 3
    mixed = found["10"]["mixed"]
    assert (mixed["seeds"], mixed["accuracy"]) == (2, pytest.approx(0.7))
    assert mixed["minus_classical"]["mean"] == pytest.approx(0.2)
    assert mixed["minus_classical"]["interval_95"] == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert found["10"]["mixed-filtered"]["minus_mixed"]["mean"] == pytest.approx(-0.1)
    assert found["10"]["classical"]["minus_classical"]["interval_95"] == 0
    assert "minus_classical" in found["10"]["real"]
    assert "minus_synthetic" not in found["10"]["synthetic"]


class _Cell:
    """Replaces the training, which fails with 10 images per class."""

    def __init__(self, options, per_class, seed):
        self.folder = options.out / f"{per_class or 'all'}-{seed}"
        self.per_class = per_class

    def measure(self, arm):
        """Fails like an export."""
        if self.per_class == 10 and arm == "mixed-filtered":
            raise DatasetError("nothing passes")
        return 0.75


def test_record_names_failures_and_what_is_missing(few_data, tmp_path, monkeypatch):
    """A failed arm is a result. Its cell is listed as not run, and the others continue."""
    monkeypatch.setattr(few_data, "Cell", _Cell)
    options = argparse.Namespace(
        out=tmp_path,
        record=None,
        data=None,
        images=[10, None],
        seeds=2,
        steps=5,
        only_done=False,
    )
    few_data.run_queue(options)
    record = json.loads((tmp_path / "few-data.json").read_text())
    assert record["command"].endswith("few_data.py --images 10 all --seeds 2 --steps 5")
    assert record["failed"] == dict.fromkeys(
        ["10-1-mixed-filtered", "10-2-mixed-filtered"], "nothing passes"
    )
    assert record["not_run"] == ["10-1", "10-2"]
    assert record["accuracy"]["all"]["2"] == dict.fromkeys(few_data.ARMS, 0.75)


def test_record_is_continued(few_data, tmp_path, monkeypatch):
    """What a record has, failures included, is not measured again; other settings are refused."""
    measured = []

    class Cell(_Cell):
        def __init__(self, options, per_class, seed):
            super().__init__(options, per_class, seed)
            self.seed = seed

        def measure(self, arm):
            measured.append((self.per_class, self.seed, arm))
            return super().measure(arm)

    monkeypatch.setattr(few_data, "Cell", Cell)
    options = argparse.Namespace(
        out=tmp_path / "one",
        record=tmp_path / "record.json",
        data=None,
        images=[10],
        seeds=1,
        steps=5,
        only_done=False,
    )
    few_data.run_queue(options)
    options.out, options.seeds, options.only_done = tmp_path / "two", 2, True
    few_data.run_queue(options)
    assert {seed for _, seed, _ in measured} == {1}
    options.only_done = False
    few_data.run_queue(options)
    assert measured == [(10, seed, arm) for seed in (1, 2) for arm in few_data.ARMS]
    record = json.loads(options.record.read_text())
    assert [*record["failed"]] == ["10-1-mixed-filtered", "10-2-mixed-filtered"]
    assert [*record["accuracy"]["10"]] == ["1", "2"]
    options.steps = 6
    with pytest.raises(SystemExit, match="results of other settings"):
        few_data.run_queue(options)


def test_classifiers_take_equally_many_steps(few_data, tmp_path, monkeypatch):
    """Of more images than the steps show, a part is drawn; few images are shown several times."""
    shown = []

    def train_classifier(recipe, data, test, out, **_):
        shown.append((len(data), recipe.epochs))
        out.mkdir(parents=True)
        (out / "classifier.json").write_text('{"test_accuracy": 0.5}')

    monkeypatch.setattr(few_data, "train_classifier", train_classifier)
    options = argparse.Namespace(out=tmp_path, data=None, steps=10, batch_size=20, width=8)
    for count in (20, 100, 500):
        cell = few_data.Cell(options, count, 1)
        cell.__dict__ |= {"real": images("real", count, 1), "test": images("test", 10, 1)}
        assert cell.measure("real") == 0.5
    assert shown == [(20, 10), (100, 2), (200, 1)]
