"""Digests of the served versions; they make versions immutable while the server runs.

In one process a dictionary is enough. Workers share a file, so that a worker that replaces another
one refuses the same bundles.
"""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ServedDigests:
    """Digests of all versions that were served, by model and version number; thread-safe.

    Args:
        path: a file on a local disk that all workers share; it is created if missing. It belongs
            to one run of the server: delete it afterwards. None keeps the digests in this process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], str] = {}

    def find_digest(self, name: str, version: int) -> str | None:
        """Returns the SHA-256 that any worker last served under a number; None if there is none."""
        with self._lock:
            if self._path is not None:
                with self._hold_lock() as descriptor:
                    self._read(descriptor)
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
            OSError: the file cannot be written; nothing is recorded.
        """
        with self._lock:
            return self._add(name, version, sha256, accept=accept)

    def _add(self, name: str, version: int, sha256: str, *, accept: bool) -> str:
        if self._path is None:
            return self._record(name, version, sha256, accept=accept)
        with self._hold_lock() as descriptor:
            self._read(descriptor)
            before = self._known.get((name, version))
            holds = self._record(name, version, sha256, accept=accept)
            if holds != before:
                try:
                    _append(descriptor, json.dumps([name, version, holds]) + "\n")
                except OSError:
                    del self._known[name, version]  # the next lookup reads it again
                    raise
            return holds

    def _record(self, name: str, version: int, sha256: str, *, accept: bool) -> str:
        if accept:
            self._known[name, version] = sha256
        return self._known.setdefault((name, version), sha256)

    def _read(self, descriptor: int) -> None:
        """Reads the digests of all workers; the last line of a number counts."""
        size = os.fstat(descriptor).st_size
        for line in os.pread(descriptor, size, 0).splitlines():
            name, version, sha256 = json.loads(line)
            self._known[name, version] = sha256

    @contextmanager
    def _hold_lock(self) -> Iterator[int]:
        """Opens and locks the file exclusively until the end of the block."""
        assert self._path is not None  # noqa: S101 - for the type checker; both callers check it
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)  # releases the lock


def _append(descriptor: int, line: str) -> None:
    """Writes a whole line or nothing; a partial line would corrupt the file for every reader."""
    content, end = line.encode(), os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, content)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
    if written < len(content):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
