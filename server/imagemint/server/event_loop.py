"""Tunes the interpreter for speed: the event loop and the garbage collector."""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from imagemint.server.telemetry.logs import close_logs

_ResultT = TypeVar("_ResultT")

# A call allocates about a hundred tracked objects, hardly ever in a cycle. With the default
# threshold, the collector would run every few calls.
_COLLECT_EVERY = 20_000


def run(main: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """Runs a coroutine to its end on uvloop, or on asyncio's own loop if uvloop is not installed.

    On uvloop an empty call costs a sixth less; see docs/notes/serving-performance.md.
    """
    with asyncio.Runner(loop_factory=_choose_loop_factory()) as runner:
        return runner.run(main)


def _choose_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - uvloop does not exist on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def settle() -> None:
    """Excludes all present objects from garbage collection. Call it once, when all is loaded.

    Otherwise every collection would traverse the objects of all modules while it holds the GIL.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def exit_now(status: int) -> NoReturn:
    """Ends the process without waiting for threads that are inside native code.

    The interpreter's normal exit would free memory that such a thread uses, and crash.
    """
    close_logs()
    os._exit(status)
