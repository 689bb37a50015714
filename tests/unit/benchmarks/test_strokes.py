"""Tests of benchmarks/strokes.py: haze, ink and doubt of images of digits."""

from types import SimpleNamespace

import numpy as np
import pytest
from strokes import measure_doubt, measure_haze, measure_ink


def test_haze_is_the_share_of_the_lowest_levels():
    """Black, and levels above 8, are no haze."""
    images = np.array([0, 1, 8, 9, 255], np.uint8).reshape(1, 1, 5, 1)
    assert measure_haze(images) == pytest.approx(2 / 5)


def test_ink_of_an_upright_bar():
    """A bar of two full columns and ten rows has twenty pixels of ink, two in each row."""
    images = np.zeros((3, 28, 28, 1), np.uint8)
    images[:, 5:15, 13:15] = 255
    assert measure_ink(images) == (20, 2)


def test_haze_alone_is_no_stroke():
    """A row that has only haze is not counted among the rows with a stroke."""
    images = np.full((1, 28, 28, 1), 1, np.uint8)
    images[:, 3] = 255
    assert measure_ink(images)[1] == pytest.approx(28)


def test_doubt_is_counted_in_channels():
    """Each channel is judged by itself."""
    shares = np.array([[0.95, 0.05], [0.5, 0.5], [0.89, 0.11], [0.1, 0.9001]])
    seen = []

    def extract(images):
        seen.append(images)
        return SimpleNamespace(log_probabilities=np.log(shares))

    images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    assert measure_doubt(images, SimpleNamespace(extract=extract)) == 0.5
    assert seen[0].shape == (4, 1, 2, 1)
    assert seen[0].reshape(4, 2).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
