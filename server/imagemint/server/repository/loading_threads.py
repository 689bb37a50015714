"""Daemon threads for long tasks; they do not keep the process from ending."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_ResultT = TypeVar("_ResultT")


class DaemonPool:
    """A thread pool with a queue of tasks.

    Unlike the threads of `concurrent.futures`, its threads are daemons: a task that hangs in native
    code does not keep the process from ending.

    Args:
        threads: maximum number of tasks that run in parallel.
        name: name of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a task is still running."""
        return any(thread.is_alive() for thread in tuple(self._threads))

    def submit(self, task: Callable[[], _ResultT]) -> "Future[_ResultT]":
        """Queues a task and returns its future, which is cancelled if the pool is closed."""
        done: Future[_ResultT] = Future()

        def work() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                result = task()
            except BaseException as error:  # noqa: BLE001 - the future carries it
                done.set_exception(error)
            else:
                done.set_result(result)

        with self._lock:
            if self._closed:
                done.cancel()
                return done
            self._waiting.append(work)
            if len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.add(thread)
                thread.start()
        return done

    def close(self, timeout_s: float) -> None:
        """Drops the tasks that have not begun, and waits up to `timeout_s` for each thread."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            threads = tuple(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads.discard(threading.current_thread())
                    return
                task = self._waiting.popleft()
            task()
