"""Limits the memory of pictures that are decoded at the same time.

It is apart from the bytes in flight. Those are held for as long as callers read, and a picture of
the largest size may need all of them: it would wait until every caller has left.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

_ResultT = TypeVar("_ResultT")


@dataclass(eq=False, slots=True)
class _Waiter:
    size: int
    granted: asyncio.Future[None]


class DecodingRoom:
    """Threads that decode, with a limited number of bytes. Use it on one event loop.

    Every piece of work waits for all earlier ones, so a large one is not overtaken for ever.

    Args:
        executor: the threads.
        most_bytes: number of bytes for all work together. Work that needs more runs alone.
    """

    def __init__(self, executor: Executor, most_bytes: int) -> None:
        self._executor = executor
        self._most_bytes = most_bytes
        self._waiting: deque[_Waiter] = deque()
        self.held_bytes = 0
        """Number of bytes that are reserved now."""

    async def run(self, size: int, work: Callable[[], _ResultT]) -> _ResultT:
        """Reserves bytes, and returns the result of work on a thread.

        The bytes are released when the thread has ended the work, which a cancelled call may leave
        before.

        Args:
            size: number of bytes that the work needs.
            work: called on a thread.
        """
        size = min(size, self._most_bytes)
        await self._reserve(size)
        loop = asyncio.get_running_loop()
        try:
            done = self._executor.submit(work)
        except RuntimeError:  # the threads are shut down
            self._release(size)
            raise

        def release(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # a closed loop has no use for the bytes
                loop.call_soon_threadsafe(self._release, size)

        done.add_done_callback(release)
        return await asyncio.wrap_future(done)

    async def _reserve(self, size: int) -> None:
        waiting = _Waiter(size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._grant_waiting()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.cancelled():
                self._grant_waiting()
            else:  # granted just before the cancellation
                self._release(size)
            raise

    def _release(self, size: int) -> None:
        self.held_bytes -= size
        self._grant_waiting()

    def _grant_waiting(self) -> None:
        while self._waiting:
            waiting = self._waiting[0]
            if not waiting.granted.done():  # a cancelled call leaves a finished future
                if self.held_bytes + waiting.size > self._most_bytes:
                    return
                self.held_bytes += waiting.size
                waiting.granted.set_result(None)
            self._waiting.popleft()
