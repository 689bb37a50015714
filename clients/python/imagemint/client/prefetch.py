"""Reads ahead of a loop, on threads."""

import atexit
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from imagemint.client import forks
from imagemint.client.errors import ClientForked

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_EXIT_TIMEOUT_S = 5.0

_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


class Prefetch(Generic[ItemT, ResultT]):
    """Iterates over `read(item)` for each item, in order, with several reads ahead.

    The first result starts the reads. Each read has a thread of its own, which does not keep the
    process alive. If a read fails, its error is raised in the place of its result.

    Args:
        read: returns the result of an item. It must be thread-safe.
        items: what to read.
        depth: reads that run or wait for the loop at the same time, 0 or more. With 0, each read
            runs when its result is needed.
    """

    def __init__(
        self, read: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int
    ) -> None:
        self._read = read
        self._items = iter(items)
        self._depth = depth
        self._reads: deque[Future[ResultT]] = deque()
        self._generation = forks.count_forks()

    def __iter__(self) -> Iterator[ResultT]:
        return self

    def __next__(self) -> ResultT:
        """Returns the next result.

        Raises:
            ClientForked: a forked child inherited this iterator. Its threads are the parent's.
        """
        if self._generation != forks.count_forks():
            raise ClientForked
        if self._depth == 0:
            return self._read(next(self._items))
        for item in itertools.islice(self._items, self._depth - len(self._reads)):
            self._reads.append(_start(self._read, item))
        if not self._reads:
            raise StopIteration
        result = self._reads.popleft().result()
        for item in itertools.islice(self._items, 1):
            self._reads.append(_start(self._read, item))
        return result


def _start(read: Callable[[ItemT], ResultT], item: ItemT) -> Future[ResultT]:
    future: Future[ResultT] = Future()

    def run() -> None:
        try:
            future.set_result(read(item))
        except BaseException as error:  # noqa: BLE001 - the loop raises it
            future.set_exception(error)

    thread = threading.Thread(target=run, name="imagemint-prefetch", daemon=True)
    _threads.add(thread)
    thread.start()
    return future


@atexit.register
def _join_threads() -> None:
    """Waits for active reads before the interpreter clears their modules."""
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    for thread in list(_threads):
        thread.join(max(deadline - time.monotonic(), 0))
