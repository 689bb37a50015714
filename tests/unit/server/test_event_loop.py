"""Tests of the event loop and of the settings of the garbage collector."""

import asyncio
import gc
import sys

import pytest

from imagemint.server import event_loop as runtime


async def get_loop():
    """Returns the running event loop."""
    return asyncio.get_running_loop()


def test_server_runs_on_uvloop():
    """The server runs on uvloop if it is installed."""
    uvloop = pytest.importorskip("uvloop")
    assert isinstance(runtime.run(get_loop()), uvloop.Loop)


def test_server_runs_without_uvloop(monkeypatch):
    """Without uvloop the server runs on the loop of asyncio."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert type(runtime.run(get_loop())).__module__.startswith("asyncio.")


def test_collector_ignores_objects_of_the_start():
    """Objects that exist when the server is ready are not traversed again."""
    threshold = gc.get_threshold()
    try:
        runtime.settle()
        assert gc.get_freeze_count() > 1_000
        assert gc.get_threshold()[0] > threshold[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
