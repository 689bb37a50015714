"""A shared and exclusive lock that keeps work off the GPU during CUDA graph captures."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """A lock with shared and exclusive holders; a waiting exclusive holder goes first.

    ONNX Runtime captures CUDA graphs in the mode `cudaStreamCaptureModeGlobal`: during a capture,
    allocations, copies and releases of other threads fail and abort the capture; a failure in a
    destructor ends the process. Therefore a capture holds the lock exclusively for all models.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = 0  # waiting or inside

    @contextlib.contextmanager
    def hold_shared(self) -> Iterator[None]:
        """Holds the lock shared; waits while it is held exclusively or such a holder waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def hold_exclusively(self) -> Iterator[None]:
        """Holds the lock exclusively; waits for all other holders."""
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
