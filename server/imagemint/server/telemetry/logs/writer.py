"""Writes log lines to a file descriptor on a thread, from a bounded queue."""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

# About four times the lines that a busy server logs per second.
_MOST_LINES = 10_000
_MOST_BYTES = 16 * 2**20
_WRITE_BYTES = 64 * 2**10
# At exit, the writer gives up on a reader that has read nothing for this long.
_STUCK_S = 1.0
_CLOSE_S = 10.0
_RETRY_S = 0.1


class LogWriter:
    """Writes lines in order, and never blocks the caller. It is thread-safe.

    If the queue is full, lines are dropped and counted.

    Args:
        descriptor: the file descriptor to write to, such as a duplicate of stderr. It stays open.
        report_dropped: returns the line that reports the number of dropped lines; it is written as
            soon as the queue has room again.
        most_lines: maximum number of queued lines.
        most_bytes: maximum size of the queued lines.
    """

    def __init__(
        self,
        descriptor: int,
        report_dropped: Callable[[int], bytes],
        *,
        most_lines: int = _MOST_LINES,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self.dropped = 0
        """Number of lines dropped so far."""
        self._descriptor = descriptor
        self._report_dropped = report_dropped
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._reported = 0
        self._fails = False
        self._writing = False
        self._written = 0
        self._closed = False
        # A daemon thread, because a reader that never reads must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queues a line, which must end with a line feed; drops it if the queue is full."""
        with self._changed:
            full = len(self._lines) >= self._most_lines
            if self._closed or full or self._bytes + len(line) > self._most_bytes:
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def close(self) -> bool:
        """Writes the queued lines and ends the thread; gives up on a reader that does not read.

        Returns:
            Whether everything was written.
        """
        give_up = time.monotonic() + _CLOSE_S
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            before = -1
            while self._is_pending() and self._written != before and time.monotonic() < give_up:
                before = self._written
                self._changed.wait_for(lambda: not self._is_pending(), _STUCK_S)
            return not self._is_pending()

    def _is_pending(self) -> bool:
        # While writing fails, writing the report would fail too.
        unreported = self.dropped > self._reported and not self._fails
        return bool(self._lines) or self._writing or unreported

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            lines, dropped = batch
            report = (self._report_dropped(dropped),) if dropped else ()
            left = self._write(b"".join((*lines, *report)))
            with self._changed:
                self._writing = False
                self._fails = left > 0
                if left:
                    self.dropped += max(0, left - len(report))
                else:
                    self._reported += dropped
                self._changed.notify_all()

    def _take(self) -> tuple[list[bytes], int] | None:
        """Returns the next lines and the number of drops to report after them; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_pending())
            if not self._is_pending():
                return None
            lines: list[bytes] = []
            size = 0
            while self._lines and size < _WRITE_BYTES:
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            self._bytes -= size
            self._writing = True
            self._changed.notify_all()
            return lines, self.dropped - self._reported

    def _write(self, chunk: bytes) -> int:
        """Writes a chunk, however long it takes; returns the number of lines that were not written.

        Lines are not written if the disk is full or the reader is gone.
        """
        left = memoryview(chunk)
        while left:
            try:
                count = os.write(self._descriptor, left)
            except BlockingIOError:  # another process made it non-blocking
                with contextlib.suppress(OSError):
                    select.select((), (self._descriptor,), (), _RETRY_S)
                continue
            except OSError:
                return bytes(left).count(b"\n")
            left = left[count:]
            with self._changed:
                self._written += count
        return 0
