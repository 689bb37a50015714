"""What API keys have used: images by token bucket, and calls under way; shared by workers or not.

The unit of the rate is the image, for that is the work. A bucket holds at most the burst and gains
the rate; who takes more than the burst waits until the bucket is full and leaves it in debt, so the
rate holds in the long run whatever the size of the requests.

The state lies in memory, or in a file that the processes of one server map, each at its own time:
then a limit is that of the whole server, however many workers it has. A row of the table is found
by the digest of the client's name, since workers may learn of a client in any order. Calls are
counted in a column for each worker. A worker holds a lock on its column for life, which the kernel
takes back however it ends, and what a dead one has left is given back as soon as somebody needs it.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_COLUMNS = 256
_ROWS = 4_096
_BUCKET = struct.Struct("=32sdd")  # digest of the name, images left, when
_COUNT = struct.Struct("=I")
_ROW_BYTES = _BUCKET.size + _COLUMNS * _COUNT.size
_TABLE_BYTES = _ROWS * _ROW_BYTES
_NOBODY = bytes(32)
# Locks are on bytes behind the table, which need not exist: one for the table, one a column.
_TABLE_LOCK = _TABLE_BYTES
_COLUMN_LOCKS = _TABLE_BYTES + 1


class LedgerFullError(RuntimeError):
    """More clients or workers than the table has room for, in the life of one server."""


class Ledger:
    """Images and calls by the name of a client; used from one thread of each process.

    Args:
        path: a file that all processes of a server share, made if missing, on a local disk; None
            keeps the state in this process. It belongs to one run of the server: delete it after.
        clock: seconds, the same in all processes; CLOCK_MONOTONIC is.

    Raises:
        LedgerFullError: 256 workers have it open.
    """

    def __init__(
        self, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._rows: dict[str, int] = {}
        self._descriptor: int | None = None
        if path is None:
            self._table = mmap.mmap(-1, _TABLE_BYTES)
            self._column = 0
            return
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._locked():
                os.ftruncate(self._descriptor, _TABLE_BYTES)  # zeros at first, nothing afterwards
                self._table = mmap.mmap(self._descriptor, _TABLE_BYTES)
                self._column = self._free_column()
                self._clear(self._column)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what is counted here, and lets go of the file. Closing twice is harmless."""
        if self._table.closed:
            return
        with self._locked():
            self._clear(self._column)
        self._table.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # --- images -----------------------------------------------------------------------------------

    def take(
        self, client: str, images: int, *, rate_per_s: float, burst: float, keep: float = 0.0
    ) -> float:
        """Takes images out of a client's bucket, or tells when they can be had.

        Args:
            client: name.
            images: how many, 1 or more; more than the burst are had from a full bucket.
            rate_per_s: images that it gains a second.
            burst: images that it holds at most.
            keep: share of the burst that must be left, 0 to 1, for others of the same client; what
                exceeds the rest is had from a full bucket.

        Returns:
            0 when they were taken; otherwise nothing was, and it is the seconds after which they
            could be, if nobody comes between.
        """
        with self._locked():
            at = self._row(client) * _ROW_BYTES
            digest, left, since_s = _BUCKET.unpack_from(self._table, at)
            now_s = self._clock()
            left = burst if since_s == 0 else min(burst, left + (now_s - since_s) * rate_per_s)
            needed = min(keep * burst + images, burst)
            # A millionth of an image is what repeated sums of floats lose.
            if left < needed - 1e-6:
                return max((needed - left) / rate_per_s, 1e-3)
            _BUCKET.pack_into(self._table, at, digest, left - images, now_s)
            return 0.0

    def give_back(self, client: str, images: int) -> None:
        """Returns images that were taken and not asked of any model after all.

        Harmless after `close`.
        """
        if self._table.closed:
            return
        with self._locked():
            at = self._row(client) * _ROW_BYTES
            digest, left, since_s = _BUCKET.unpack_from(self._table, at)
            _BUCKET.pack_into(self._table, at, digest, left + images, since_s)

    # --- calls ------------------------------------------------------------------------------------

    def enter(self, client: str, limit: int) -> bool:
        """Counts one call more, unless `limit` are running; tells whether it did."""
        with self._locked():
            row = self._row(client)
            if self._running(row) >= limit:
                self._bury_the_dead(row)
                if self._running(row) >= limit:
                    return False
            self._add(row, 1)
        return True

    def leave(self, client: str) -> None:
        """Counts one call less; after an `enter` that counted, and harmless after `close`."""
        if self._table.closed:
            return
        with self._locked():
            self._add(self._row(client), -1)

    def running(self, client: str) -> int:
        """Returns the calls that are counted, those of dead workers among them."""
        with self._locked():
            return self._running(self._row(client))

    # --- the table --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._descriptor is None:
            yield
            return
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _TABLE_LOCK)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _TABLE_LOCK)

    def _row(self, client: str) -> int:
        """The row of a client, a fresh one at its first call."""
        if client in self._rows:
            return self._rows[client]
        wanted = hashlib.sha256(client.encode()).digest()
        for row in range(_ROWS):
            at = row * _ROW_BYTES
            found = self._table[at : at + len(wanted)]
            if found in (wanted, _NOBODY):
                if found == _NOBODY:
                    _BUCKET.pack_into(self._table, at, wanted, 0.0, 0.0)
                self._rows[client] = row
                return row
        raise LedgerFullError(f"{_ROWS} clients have called already")

    def _running(self, row: int) -> int:
        counts = struct.unpack_from(f"={_COLUMNS}I", self._table, row * _ROW_BYTES + _BUCKET.size)
        return sum(counts)

    def _add(self, row: int, calls: int) -> None:
        at = _count_at(row, self._column)
        (count,) = _COUNT.unpack_from(self._table, at)
        _COUNT.pack_into(self._table, at, max(0, count + calls))

    def _free_column(self) -> int:
        for column in range(_COLUMNS):
            if self._claimed(column):
                return column
        raise LedgerFullError(f"{_COLUMNS} workers share this ledger already")

    def _claimed(self, column: int) -> bool:
        """Locks a column if no living process has."""
        if self._descriptor is None:
            return False
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _COLUMN_LOCKS + column)
        except OSError:
            return False
        return True

    def _bury_the_dead(self, row: int) -> None:
        """Gives back what dead workers have left in a row."""
        for column in range(_COLUMNS):
            at = _count_at(row, column)
            (count,) = _COUNT.unpack_from(self._table, at)
            if count and column != self._column and self._claimed(column):
                self._clear(column)
                if self._descriptor is not None:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _COLUMN_LOCKS + column)

    def _clear(self, column: int) -> None:
        for row in range(_ROWS):
            if self._table[row * _ROW_BYTES : row * _ROW_BYTES + len(_NOBODY)] == _NOBODY:
                return  # rows are taken in order
            _COUNT.pack_into(self._table, _count_at(row, column), 0)


def _count_at(row: int, column: int) -> int:
    return row * _ROW_BYTES + _BUCKET.size + column * _COUNT.size
