"""Tests of imagemint.training.losses.ramp."""

import pytest

from imagemint.training.losses.ramp import CosineRamp


def test_ramp_goes_from_the_first_to_the_last_value():
    """The ramp reaches the midpoint at half its length and keeps its last value afterwards."""
    ramp = CosineRamp(1.0, 0.1, 1_000)
    assert [ramp.compute_value(n) for n in (0, 500, 1_000, 9_000)] == pytest.approx(
        [1.0, 0.55, 0.1, 0.1]
    )
    assert CosineRamp(1.0, 0.1, 0).compute_value(0) == 0.1
