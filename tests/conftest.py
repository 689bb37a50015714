"""What every test shares: a clean environment, calm hypothesis, tiny bundles."""

import os

import pytest
from hypothesis import settings
from tiny_bundles import write_bundle

# The same examples on every run, and no verdict on how busy the machine is.
settings.register_profile("imagemint", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("imagemint")

# Tells where the real data sets lie; tests marked `data` need it.
KEPT = {"IMAGEMINT_DATA"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """No setting of the person who runs the tests reaches the code under test."""
    for name in set(os.environ) - KEPT:
        if name.startswith("IMAGEMINT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def tiny_bundle(tmp_path):
    """The directory of one conditional bundle: `<tmp>/models/tiny/1`."""
    return write_bundle(tmp_path / "models")
