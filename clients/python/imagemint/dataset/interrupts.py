"""Ctrl-C and SIGTERM end a run in the same way: it cleans up, and says how to continue."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from imagemint.client.interrupts import find_interruption

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM ended, as in a shell."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asks this process to end."""


@contextlib.contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raises Terminated on SIGTERM, once. Other threads than the main one cannot ask for it.

    An error that replaces it on its way is not raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the cleanup
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except Exception as error:
        interruption = find_interruption(error)
        if interruption is None:
            raise
        raise interruption from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM, so that no process is started by half.

    Processes that start meanwhile inherit that SIGINT is blocked. Ctrl-C goes to all processes of
    a terminal, and would end a worker with a traceback during its imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if threading.current_thread() is not threading.main_thread():
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    held: list[int] = []
    # Other threads do not block it, so that it can still arrive.
    handlers = {
        each: signal.signal(each, lambda number, _: held.append(number))
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
