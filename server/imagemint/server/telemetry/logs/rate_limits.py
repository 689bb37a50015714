"""Limits how many lines gRPC logs, because callers can cause any number of them."""

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from imagemint.server.telemetry.logs.cleaning import prints_callers_bytes

CORE = "grpc.core"
"""Logger of gRPC's native code."""
STDERR_LOGGER = "stderr"
"""Logger of all other output to file descriptor 2."""

_PEER = re.compile(r"\b(?:ipv[46]|unix|unix-abstract|vsock):(\S+)")
_MOST_PEERS = 1_000


class Bucket:
    """A token bucket.

    Args:
        burst: maximum number of lines at once.
        per_second: average number of lines per second.
        now: current time in seconds.
    """

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = self._left = burst
        self._per_second = per_second
        self._since = now

    def take(self, now: float) -> bool:
        """Takes a token; returns false if there is none."""
        self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class LineLimit:
    """Limits the lines that name one peer, and all lines together.

    Args:
        clock: returns seconds; for tests.
    """

    PEER = (10.0, 0.1)
    """Burst and lines per second of one peer."""
    ALL = (100.0, 5.0)
    """Burst and lines per second of all peers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused = 0
        """Number of lines refused so far."""
        self._clock = clock
        self._lock = threading.Lock()
        self._all = Bucket(*self.ALL, clock())
        self._peers: OrderedDict[str, Bucket] = OrderedDict()
        self._reported = 0

    def admits(self, line: str) -> bool:
        """Returns whether a line is within the limits; counts it as refused otherwise."""
        now = self._clock()
        with self._lock:
            if self._admits(_find_host(line), now):
                return True
            self.refused += 1
            return False

    def take_refused(self) -> int:
        """Returns how many lines were refused since the last call."""
        with self._lock:
            count, self._reported = self.refused - self._reported, self.refused
            return count

    def _admits(self, host: str, now: float) -> bool:
        if host:
            bucket = self._peers.pop(host, None) or Bucket(*self.PEER, now)
            self._peers[host] = bucket  # keeps the most recent peer last
            if len(self._peers) > _MOST_PEERS:
                self._peers.popitem(last=False)
            if not bucket.take(now):
                return False
        return self._all.take(now)


def _find_host(line: str) -> str:
    """Returns the peer that a line names, without the port, which differs per connection."""
    found = _PEER.search(line, 0, 400)
    return found[1].rstrip(":").rpartition(":")[0] or found[1] if found else ""


class GrpcFilter(logging.Filter):
    """Limits the records of gRPC's loggers and of asyncio's, which prints gRPC's errors.

    Args:
        limit: the limit to apply.
    """

    def __init__(self, limit: LineLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to log a record."""
        read_from_stderr = record.name in (CORE, STDERR_LOGGER)  # limited when read
        if read_from_stderr or not prints_callers_bytes(record.name):
            return True
        return self._limit.admits(record.msg if isinstance(record.msg, str) else "")
