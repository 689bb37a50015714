"""Deadlines of many calls that all have the same time, with one timer for all of them."""

import asyncio
import time
from typing import Protocol


class Perishable(Protocol):
    """What waits for something, but not for ever. Hashable by identity."""

    def expire(self) -> None:
        """Its time is over."""
        ...


class Deadlines:
    """Ends what takes too long.

    All have the same time, so that they are due in the order in which they began. The timer is set
    for the first; where that one is done by then, it is set anew for who is first now. A timer for
    each call would cost more than all else in it that is not a system call.

    Args:
        timeout_s: how long each may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._due: dict[Perishable, float] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, waiting: Perishable) -> None:
        """Its time begins now."""
        self._due[waiting] = time.monotonic() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self.timeout_s, self._sweep)

    def end(self, waiting: Perishable) -> None:
        """It is done, or was not waiting at all."""
        self._due.pop(waiting, None)

    def overdue(self, waiting: Perishable) -> bool:
        """Whether its time is over although nobody has told it."""
        return self._due.get(waiting, float("inf")) <= time.monotonic()

    def close(self) -> None:
        """Nobody's time ends any more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._due:
            first, due = next(iter(self._due.items()))
            if due > now:
                self._timer = self._loop.call_later(due - now, self._sweep)
                return
            del self._due[first]
            first.expire()
