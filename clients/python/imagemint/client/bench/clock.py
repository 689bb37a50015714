"""The clock that calls are timed with, and what wakes the generator when a call is due."""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Protocol

from imagemint.client.bench.load import Load, Open


class Clock(Protocol):
    """Tells the time and waits for it; tests bring one that they advance."""

    def now_ns(self) -> int:
        """Nanoseconds since some moment that all processes of the machine share."""
        ...

    async def until(self, moment_ns: int) -> None:
        """Waits for a moment; lets others run also if it has passed."""
        ...


class Monotonic:
    """The machine's monotonic clock, which is one for all processes on Linux and macOS."""

    now_ns = staticmethod(time.monotonic_ns)

    async def until(self, moment_ns: int) -> None:
        """Sleeps on the running event loop, never too short: uvloop's timers may be early."""
        await asyncio.sleep(max(moment_ns - time.monotonic_ns(), 0) / 1e9)
        while (left_ns := moment_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110 - time is no event
            await asyncio.sleep(left_ns / 1e9)


def loop_factory(load: Load) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop that suits a load; None for the default one.

    uvloop for a closed loop, where it is installed. Its timers, like those over epoll, count in
    milliseconds: every call of an open loop would be up to one late, a large part of a short
    latency. select(2) takes microseconds, and has few sockets to look at here.
    """
    if isinstance(load, Open):
        return lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
