"""Being told to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yields a list that becomes non-empty when SIGINT or SIGTERM asks to stop."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(kind, remember) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)
