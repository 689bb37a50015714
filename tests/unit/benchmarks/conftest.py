"""The scripts under benchmarks/ import each other from there, as they do when they are run."""

import sys
from pathlib import Path

import pytest

from imagemint.engine.spec import Distribution, ModelSpec

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
# Last, so that none of their names hides another's.
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
