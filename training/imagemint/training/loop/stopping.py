"""Handles requests to stop, by SIGINT or SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal has asked to stop.

    Attributes:
        requested: set by the first signal, and never cleared.
    """

    def __init__(self) -> None:
        self.requested = False

    def receive(self, number: int, _: FrameType | None) -> None:
        """Handles a signal: the first one asks to stop, the second one aborts at once.

        Raises:
            KeyboardInterrupt: this is the second signal. The current step is lost, but not the last
                checkpoint.
        """
        del number
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Yields the request that SIGINT and SIGTERM set; restores their handlers at the end."""
    request = StopRequest()
    previous = [signal.signal(each, request.receive) for each in _SIGNALS]
    try:
        yield request
    finally:
        for each, handler in zip(_SIGNALS, previous, strict=True):
            signal.signal(each, handler)
