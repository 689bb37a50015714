"""The clock for calls, and the event loop that wakes the generator on time."""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Protocol

from imagemint.bench.load import Load, Open


class Clock(Protocol):
    """A clock that can be waited for. Tests use one that they advance."""

    def now_ns(self) -> int:
        """Returns nanoseconds since a moment that all processes of the machine share."""
        ...

    async def wait_until(self, moment_ns: int) -> None:
        """Waits for a moment; yields to other tasks even if it has passed."""
        ...


class Monotonic:
    """The machine's monotonic clock, shared by all processes on Linux and macOS."""

    now_ns = staticmethod(time.monotonic_ns)

    async def wait_until(self, moment_ns: int) -> None:
        """Sleeps on the running event loop, never too short: uvloop's timers can be early."""
        await asyncio.sleep(max(moment_ns - time.monotonic_ns(), 0) / 1e9)
        while (left_ns := moment_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110 - time is no event
            await asyncio.sleep(left_ns / 1e9)


def choose_loop_factory(load: Load) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns the factory of the event loop for a load; None for the default one.

    A closed loop uses uvloop if it is installed. An open loop uses select(2), whose timers have
    microseconds. The timers of uvloop and epoll have milliseconds, so every call of an open loop
    would be up to one millisecond late, which is a large part of a short latency.
    """
    if isinstance(load, Open):
        return lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
