"""Fixtures: a separate cache for each test."""

import pytest


@pytest.fixture(autouse=True)
def _use_own_cache(monkeypatch, tmp_path_factory):
    """Uses an empty cache, so that no result of another test or of the user is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
