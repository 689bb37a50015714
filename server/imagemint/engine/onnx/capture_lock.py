"""Runs side by side, and now and then something that must be alone."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Lets through many who share, or one who is alone, and keeps nobody alone waiting for ever.

    ONNX Runtime captures CUDA graphs in the mode `cudaStreamCaptureModeGlobal`: meanwhile
    allocations, copies and releases of other threads fail, and undo the capture; in a destructor
    that ends the process. So captures are alone in it, whatever models run there.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = 0  # waiting or inside

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Waits until nobody is alone, or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until everybody else is outside, and keeps them there."""
        with self._changed:
            self._alone += 1
            self._changed.wait_for(lambda: not self._inside)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._alone -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
