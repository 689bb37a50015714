"""Digests of the served versions; they make versions immutable while the server runs.

In one process a dictionary is enough. Workers share a log, so that a worker that replaces another
one refuses the same bundles.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from imagemint.server.repository.shared_log import LockedLog, SharedLog

_TOPIC = "digest"


class ServedDigests:
    """Digests of all versions that were served, by model and version number; thread-safe.

    Args:
        log: the log that all workers share; None keeps the digests in this process.
    """

    def __init__(self, log: SharedLog | None = None) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], str] = {}

    def find_digest(self, name: str, version: int) -> str | None:
        """Returns the SHA-256 that any worker last served under a number; None if there is none."""
        with self._refresh():
            return self._known.get((name, version))

    def add(self, name: str, version: int, sha256: str, *, accept: bool = False) -> str:
        """Records the digest served under a version number, unless one is recorded already.

        Args:
            name: the model.
            version: the version number.
            sha256: the digest.
            accept: whether to replace a recorded digest.

        Returns:
            The recorded digest; it differs from `sha256` if another worker recorded one first.

        Raises:
            OSError: the log cannot be written; nothing is recorded.
        """
        with self._refresh() as log:
            before = self._known.get((name, version))
            if before is not None and not accept:
                return before
            if before != sha256:
                if log is not None:
                    log.append(_TOPIC, [name, version, sha256])
                self._known[name, version] = sha256
            return sha256

    @contextmanager
    def _refresh(self) -> Iterator[LockedLog | None]:
        """Learns the digests of all workers, and locks them until the end of the block."""
        with self._lock:
            if self._log is None:
                yield None
                return
            with self._log.lock() as log:
                for name, version, sha256 in log.read(_TOPIC):  # the last one of a number counts
                    self._known[name, version] = sha256
                yield log
