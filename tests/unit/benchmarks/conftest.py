"""Fixtures for the scripts in benchmarks/, which import each other by name."""

import sys
from pathlib import Path

import pytest

from imagemint.engine.spec import Distribution, ModelSpec

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
# at the end, so that their names hide no others
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "peers/shared")]


@pytest.fixture
def spec():
    """A conditional model of 2x3 gray images."""
    return ModelSpec(
        name="tiny",
        z_dim=4,
        distribution=Distribution.NORMAL,
        truncation=None,
        class_labels=("no", "yes"),
        height=2,
        width=3,
        channels=1,
    )
