"""Limits the memory of answers that are computed and not yet read by their callers.

All calls of a process share one budget. The bytes of an answer count from the moment before it is
computed until gRPC has handed the message to the kernel. A write that has not returned still
counts, because gRPC buffers its message.

A caller may hold as many bytes as remain free. One caller that never reads holds at most half of
the budget, two hold a third each, and so on. There is always room for another caller.
"""

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class _Waiter:
    size: int
    granted: asyncio.Future[None]


class Budget:
    """A limited number of bytes, divided among callers. Use it on one event loop.

    Args:
        most_bytes: number of bytes for all callers together. A single larger answer is accepted
            while no other bytes are held.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[_Waiter]] = {}
        self.held_bytes = 0
        """Number of bytes that all callers hold now."""

    def take(self, caller: str, size: int) -> bool:
        """Reserves bytes for a caller if there is room now; returns whether it did."""
        if caller in self._waiting or not self._has_room(caller, size):
            return False
        self._held[caller] = self._held.get(caller, 0) + size
        self.held_bytes += size
        return True

    async def wait(self, caller: str, size: int) -> None:
        """Reserves bytes as soon as there is room. The requests of one caller stay in order."""
        if self.take(caller, size):
            return
        waiting = _Waiter(size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller, deque()).append(waiting)
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if not waiting.granted.cancelled():  # granted just before the cancellation
                self.give(caller, size)
            self._grant_waiting()
            raise

    def give(self, caller: str, size: int) -> None:
        """Releases bytes that a caller reserved."""
        left = self._held[caller] - size
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]
        self.held_bytes -= size
        self._grant_waiting()

    def _has_room(self, caller: str, size: int) -> bool:
        held, free = self._held.get(caller, 0), self._most_bytes - self.held_bytes
        if not held:
            return size <= free or not self.held_bytes
        return held + size <= free - size

    def _grant_waiting(self) -> None:
        """Grants the waiting requests that fit now, in order for each caller."""
        for caller in tuple(self._waiting):
            queue = self._waiting[caller]
            while queue and (queue[0].granted.done() or self._has_room(caller, queue[0].size)):
                waiting = queue.popleft()
                if not waiting.granted.done():  # a cancelled call leaves a finished future
                    self._held[caller] = self._held.get(caller, 0) + waiting.size
                    self.held_bytes += waiting.size
                    waiting.granted.set_result(None)
            if not queue:
                del self._waiting[caller]
