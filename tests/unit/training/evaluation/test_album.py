"""Tests of imagemint.training.evaluation.album."""

import numpy as np
import pytest

from imagemint.training.evaluation.album import _walk


def test_interpolation_keeps_the_length():
    """An interpolation on the arc has equal steps and is never shorter than its ends."""
    start, end = np.float32([3, 0, 0, 0]), np.float32([0, 3, 0, 0])
    z = _walk(start, end)
    assert z.dtype == np.float32
    assert np.linalg.norm(z, axis=1) == pytest.approx(np.full(10, 3.0))
    assert z[0] == pytest.approx(start)
    assert z[-1] == pytest.approx(end, abs=1e-6)
    steps = np.linalg.norm(np.diff(z, axis=0), axis=1)
    assert steps == pytest.approx(np.full(9, steps[0]), rel=1e-4)


def test_interpolation_of_equal_ends_is_constant():
    """Equal ends do not divide by a sine of zero."""
    z = np.float32([1, 2, 3])
    assert _walk(z, z) == pytest.approx(np.tile(z, (10, 1)))
