"""Tests of imagemint.training.datasets.survey and imagemint.training.datasets.sufficiency."""

import numpy as np
import pytest

from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.sufficiency import (
    count_classifier_steps,
    find_evaluation_shortages,
    find_shortages,
)
from imagemint.training.datasets.survey import find_doubts, summarise
from imagemint.training.errors import DatasetError


def make_data(counts, *, images=None, names="abcdefgh", split="train"):
    """Returns data with this many images of noise per class, or with these images."""
    labels = np.repeat(np.arange(len(counts)), counts)
    if images is None:
        rng = np.random.Generator(np.random.Philox(key=[1, 2]))
        images = rng.integers(0, 256, (len(labels), 4, 4, 1)).astype(np.uint8)
    return LabelledImages(f"toy/{split}", images, labels, tuple(names[: len(counts)]), "0" * 64)


def test_summary_counts_images_per_class():
    """The summary has splits, classes and shape, including a class that a split lacks."""
    train, test = make_data([3, 5]), make_data([1, 0], split="test")
    told = summarise(train, test)
    assert told["splits"] == {"train": 8, "test": 1}
    assert told["classes"] == {"a": {"train": 3, "test": 1}, "b": {"train": 5, "test": 0}}
    assert (told["image"], told["shape"], told["broken"]) == ("4x4 gray", [4, 4, 1], 0)
    assert summarise(train, None)["splits"] == {"train": 8}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (make_data([20]), "all 20 pictures are of one class, 'a'"),
        (make_data([20, 20], names=["train", "cat"]), "classes are called like splits: train"),
        (
            make_data([20, 20], names=["Cat", "cat"]),
            "names of classes differ only in case: Cat, cat",
        ),
        (make_data([20, 9]), "classes with fewer than 10 training pictures: b (9)"),
        (make_data([1000, 19]), "classes with fewer than 20 training pictures: b (19)"),
        (
            make_data([20, 20], images=np.full((40, 4, 4, 1), 99, np.uint8)),
            "nearly all pictures are ali",
        ),
        (
            make_data([20, 20], images=np.tile(make_data([5]).images, (8, 1, 1, 1))),
            "of 40 pictures only 5 differ",
        ),
        (
            make_data([20, 20], images=make_data([40]).images // 16),
            "100% of the pictures are nearly black",
        ),
    ],
)
def test_suspicious_data_are_reported(found, text):
    """A sentence says what looks wrong."""
    assert text in "; ".join(find_doubts(found))


def test_regular_data_give_no_warning():
    """Two classes of a usual size with distinct images give no warning."""
    assert find_doubts(make_data([40, 30])) == []
    assert find_shortages(make_data([40, 30]), 64, by_class=True) == []
    assert find_evaluation_shortages(make_data([600, 500])) == []


@pytest.mark.parametrize(
    ("counts", "by_class", "text"),
    [
        ([3, 3], True, "6 training pictures are fewer than a batch of 8"),
        ([9, 0], True, "no training picture of class b"),
        ([1, 1], True, "no class has 2 training pictures, so variety cannot be measured"),
        ([9, 1], True, "fewer than 2 training pictures of class b: no variety is measured"),
        ([1], False, "variety cannot be measured"),
    ],
)
def test_shortages_are_reported(counts, by_class, text):
    """A warning before the first step says what a run leaves out for lack of images."""
    assert text in "; ".join(find_shortages(make_data(counts), 8, by_class=by_class))


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([2, 0], "no test picture of class b"),
        ([1, 1], "too few test pictures for `imagemint evaluate`: 2, it needs at least 6"),
        ([9, 9], "with 18 test pictures, fewer than 1,000"),
    ],
)
def test_evaluation_shortages_are_reported(counts, text):
    """A warning says what an evaluation will lack."""
    assert text in "; ".join(find_evaluation_shortages(make_data(counts, split="test")))


def test_classifier_needs_a_batch():
    """Steps are full batches. Too few images for one are an error that says what to change."""
    assert count_classifier_steps(45, 3, 128) == 1
    with pytest.raises(
        DatasetError, match=r"45 training pictures in 2 .* --batch-size or --epochs"
    ):
        count_classifier_steps(45, 2, 128)
