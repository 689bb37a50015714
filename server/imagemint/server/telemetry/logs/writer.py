"""Log lines on their way out: a bounded queue, and a thread that writes it to a descriptor."""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

# About four times what a busy server logs in a second.
_MOST_LINES = 10_000
_MOST_BYTES = 16 * 2**20
_WRITE_BYTES = 64 * 2**10
# A reader that has taken nothing for so long is not waited for at the exit.
_STUCK_S = 1.0
_CLOSE_S = 10.0
_RETRY_S = 0.1


class LogWriter:
    """Writes lines in the order in which they come, and never makes the caller wait.

    Lines that find the queue full are dropped and counted. Any thread may call.

    Args:
        descriptor: where the lines go, such as a duplicate of stderr. It stays open.
        report_dropped: makes the line that says how many lines were dropped; written as soon as
            there is room again.
        most_lines: lines that may wait.
        most_bytes: bytes that may wait.
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
        """Lines dropped so far."""
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
        # A daemon: a reader that never reads must not keep the process.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queues a line, which ends with a line feed; drops it if there is no room."""
        with self._changed:
            full = len(self._lines) >= self._most_lines
            if self._closed or full or self._bytes + len(line) > self._most_bytes:
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def close(self) -> bool:
        """Writes what waits and ends the thread; gives up on a reader that does not read.

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
        # While writing fails, a report of it would fail too.
        unreported = self.dropped > self._reported and not self._fails
        return bool(self._lines) or self._writing or unreported

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            lines, dropped = taken
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
        """Returns the next lines, and how many drops to report after them; None at the end."""
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
        """Writes a piece, however long that takes; returns how many lines of it were not written.

        That happens on a full disk, or when the reader has gone.
        """
        left = memoryview(chunk)
        while left:
            try:
                count = os.write(self._descriptor, left)
            except BlockingIOError:  # somebody else has made it non-blocking
                with contextlib.suppress(OSError):
                    select.select((), (self._descriptor,), (), _RETRY_S)
                continue
            except OSError:
                return bytes(left).count(b"\n")
            left = left[count:]
            with self._changed:
                self._written += count
        return 0
