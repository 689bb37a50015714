"""Tests of imagemint.training.datasets.stacked."""

import numpy as np
import pytest

from imagemint.training import datasets
from imagemint.training.datasets import StackedDigits, load_dataset, stacked


def test_label_reads_the_channels(digits):
    """Each channel is one digit, red the hundreds, and the label is the number they spell."""
    images, labels = StackedDigits(digits, seed=4).batch(30, 25)
    rows = StackedDigits(digits, seed=4).indices(30, 25)
    assert (images.dtype, images.shape) == (np.uint8, (25, 28, 28, 3))
    for channel, worth in enumerate((100, 10, 1)):
        assert np.array_equal(images[..., channel], digits.images[rows[:, channel], ..., 0])
        assert np.array_equal(labels // worth % 10, digits.labels[rows[:, channel]])


def test_position_decides_the_stack(digits):
    """Cut into batches however, across epochs and backwards, the reel is the same."""
    whole = StackedDigits(digits, seed=1).indices(0, 130)
    reel = StackedDigits(digits, seed=1)
    parts = [reel.indices(first, 13) for first in range(117, -1, -13)]
    assert np.array_equal(np.concatenate(parts[::-1]), whole)
    assert reel.indices(7, 0).shape == (0, 3)
    assert not np.array_equal(StackedDigits(digits, seed=2).indices(0, 130), whole)


def test_epoch_shows_every_digit_in_every_channel(digits):
    """The channels are shuffled apart from each other, each a whole permutation."""
    rows = StackedDigits(digits, seed=1).indices(len(digits), len(digits))
    for channel in range(3):
        assert sorted(rows[:, channel]) == list(range(len(digits)))
    assert len({tuple(channel) for channel in rows.T}) == 3


def test_stacks_in_memory_are_the_reel(digits):
    """Held in memory they are the same stacks, under a name and digest of their own."""
    held = stacked(digits, 90, seed=5)
    images, labels = StackedDigits(digits, seed=5).batch(0, 90)
    assert np.array_equal(held.images, images)
    assert np.array_equal(held.labels, labels)
    assert (held.name, len(held.class_labels)) == ("stacked-mnist/train", 1000)
    assert held.class_labels[7] == "007"
    digests = {held.sha256, digits.sha256, stacked(digits, 90, seed=6).sha256}
    assert len(digests | {stacked(digits, 91, seed=5).sha256}) == 4


@pytest.mark.usefixtures("toy_mnist")
def test_stacked_mnist_is_a_data_set(monkeypatch):
    """It is loaded by name, drawn from MNIST of the same split."""
    monkeypatch.setattr(datasets.registry, "_STACKS", {"train": 50, "test": 20})
    train, test = (load_dataset("stacked-mnist", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (50, 20)
    assert (train.name, test.name) == ("stacked-mnist/train", "stacked-mnist/test")


@pytest.mark.data
def test_real_stacks_show_every_mode(real_data):
    """The test digits make stacks of all 1000 modes."""
    data = load_dataset("stacked-mnist", "test", real_data)
    assert data.images.shape == (30_000, 28, 28, 3)
    assert (np.bincount(data.labels, minlength=1000) > 0).all()
