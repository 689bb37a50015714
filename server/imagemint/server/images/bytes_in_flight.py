"""Bounds the memory of answers that are made and not yet taken by their callers.

One budget holds for all calls of a process. Bytes count from the moment before they are computed
until gRPC has handed the message to the kernel: a write that has not returned still counts, because
gRPC buffers its message.

A caller may hold as much as is left free beside it. One that never reads holds half of the budget
at most, two hold a third each, and so on, so there is always room for others.
"""

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class _Waiter:
    size: int
    granted: asyncio.Future[None]


class Budget:
    """Bytes that are promised to callers; used on one event loop.

    Args:
        most_bytes: bytes for all callers together. A single answer that is larger is let through
            while nothing else is held.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[_Waiter]] = {}
        self.held_bytes = 0
        """Bytes that all callers hold."""

    def take(self, caller: str, size: int) -> bool:
        """Takes bytes for a caller if there is room now, and tells whether it did."""
        if caller in self._waiting or not self._has_room(caller, size):
            return False
        self._held[caller] = self._held.get(caller, 0) + size
        self.held_bytes += size
        return True

    async def wait(self, caller: str, size: int) -> None:
        """Takes bytes for a caller as soon as there is room; a caller's requests stay in order."""
        if self.take(caller, size):
            return
        waiting = _Waiter(size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(caller, deque()).append(waiting)
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if not waiting.granted.cancelled():  # granted in the very moment in between
                self.give(caller, size)
            self._grant_waiting()
            raise

    def give(self, caller: str, size: int) -> None:
        """Returns bytes that a caller took."""
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
        """Grants what fits now: of each caller what has waited longest, one after another."""
        for caller in tuple(self._waiting):
            queue = self._waiting[caller]
            while queue and (queue[0].granted.done() or self._has_room(caller, queue[0].size)):
                waiting = queue.popleft()
                if not waiting.granted.done():  # otherwise its call was cancelled
                    self._held[caller] = self._held.get(caller, 0) + waiting.size
                    self.held_bytes += waiting.size
                    waiting.granted.set_result(None)
            if not queue:
                del self._waiting[caller]
