"""What the interpreter is told, and that it is told so."""

import asyncio
import gc
import sys

import pytest

from imagemint.server import event_loop as runtime


async def loop_in_use():
    """The loop that runs this."""
    return asyncio.get_running_loop()


def test_server_runs_on_uvloop():
    """Where uvloop is installed, it is what runs the server."""
    uvloop = pytest.importorskip("uvloop")
    assert isinstance(runtime.run(loop_in_use()), uvloop.Loop)


def test_server_runs_without_uvloop(monkeypatch):
    """Where it is not, the loop of asyncio does."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert type(runtime.run(loop_in_use())).__module__.startswith("asyncio.")


def test_collector_leaves_alone_what_was_there():
    """What exists when the server settles is not visited again."""
    threshold = gc.get_threshold()
    try:
        runtime.settle()
        assert gc.get_freeze_count() > 1_000
        assert gc.get_threshold()[0] > threshold[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
