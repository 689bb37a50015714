"""What the interpreter is told for the sake of speed: its event loop and its garbage collector."""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from imagemint.server.telemetry.logs import close_logs

_ResultT = TypeVar("_ResultT")

# A call makes and drops some hundred objects that the collector counts, hardly ever in a cycle: by
# default it would look every few calls.
_COLLECT_EVERY = 20_000


def run(main: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """Runs a coroutine to its end on uvloop, or without it on asyncio's own loop.

    On uvloop an empty call costs a sixth less; see docs/notes/serving-performance.md.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - a platform that has none serves without
    except ImportError:
        return None
    return uvloop.new_event_loop


def settle() -> None:
    """Takes what is there for good out of the collector's sight; once, when all is loaded.

    A collection would otherwise visit every object of every module again and again, with the
    interpreter's lock held.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def leave_now(status: int) -> NoReturn:
    """Ends the process without waiting for threads that native code keeps.

    The interpreter's own end would free what such a thread is using, and fault.
    """
    close_logs()
    os._exit(status)
