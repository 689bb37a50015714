"""Tests of imagemint.training.datasets.stacked."""

import numpy as np
import pytest

from imagemint.training.datasets import load_dataset, registry, stack_digits


def test_label_is_the_number_of_the_channels(digits):
    """Each channel is a digit, red the hundreds, and the label is the number that they form."""
    data = stack_digits(digits, 25, seed=4)
    assert (data.images.dtype, data.images.shape) == (np.uint8, (25, 28, 28, 3))
    assert (data.name, len(data.class_labels), data.class_labels[7]) == (
        *("stacked-mnist/train", 1000),
        "007",
    )
    for channel, worth in enumerate((100, 10, 1)):
        for image, label in zip(data.images[..., channel], data.labels // worth % 10, strict=True):
            same = (digits.images[..., 0] == image).all(axis=(1, 2))
            assert digits.labels[same].tolist() == [label]


def test_stack_depends_on_seed_and_position(digits):
    """More stacks begin with the same ones, another seed gives others, and digests differ."""
    few, many, other = (
        stack_digits(digits, 7, 1),
        stack_digits(digits, 90, 1),
        stack_digits(digits, 7, 2),
    )
    assert np.array_equal(many.images[:7], few.images)
    assert not np.array_equal(other.images, few.images)
    assert len({few.sha256, many.sha256, other.sha256, digits.sha256}) == 4
    assert stack_digits(digits, 7, 1).sha256 == few.sha256


def test_channels_are_drawn_independently(digits):
    """The digits of the channels are uncorrelated."""
    labels = stack_digits(digits, 3_000, seed=1).labels
    spelt = np.stack([labels // 100, labels // 10 % 10, labels % 10])
    assert np.abs(np.corrcoef(spelt) - np.eye(3)).max() < 0.06


@pytest.mark.usefixtures("toy_mnist")
def test_stacked_mnist_is_a_dataset(monkeypatch):
    """The data set is loaded by name and drawn from MNIST of the same split."""
    monkeypatch.setattr(registry, "_STACKS", {"train": 50, "test": 20})
    train, test = (load_dataset("stacked-mnist", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (50, 20)
    assert (train.name, test.name) == ("stacked-mnist/train", "stacked-mnist/test")


@pytest.mark.data
def test_real_stacks_have_every_mode(real_data):
    """The stacks of the test digits have all 1000 modes."""
    data = load_dataset("stacked-mnist", "test", real_data)
    assert data.images.shape == (30_000, 28, 28, 3)
    assert (np.bincount(data.labels, minlength=1000) > 0).all()
