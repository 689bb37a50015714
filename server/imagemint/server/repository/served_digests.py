"""Which bytes were served under which number: what makes a version immutable while a server lives.

In one process a dictionary is enough. Workers share a file, so that one that starts later, in the
place of one that died, refuses what its peers refuse.
"""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ServedBytes:
    """Digests of all that was served, by model and version; any thread may ask or add.

    Args:
        path: a file that all workers of a server share, made if missing, on a local disk; None
            remembers in this process alone. It belongs to one run of the server: delete it after.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._known: dict[tuple[str, int], str] = {}

    def known(self, name: str, version: int) -> str | None:
        """Returns the SHA-256 last served under a number, by any worker; None for none yet."""
        with self._turn:
            if self._path is not None:
                with self._locked() as descriptor:
                    self._read(descriptor)
            return self._known.get((name, version))

    def add(self, name: str, version: int, sha256: str, *, accept: bool = False) -> str:
        """Remembers what is served under a number from now on, unless that is settled already.

        Args:
            name: the model.
            version: the number.
            sha256: of its bytes.
            accept: settle it anew.

        Returns:
            The digest that holds; another one if a worker was first, with other bytes.

        Raises:
            OSError: it cannot be written; nothing is remembered.
        """
        with self._turn:
            return self._add(name, version, sha256, accept=accept)

    def _add(self, name: str, version: int, sha256: str, *, accept: bool) -> str:
        if self._path is None:
            return self._settle(name, version, sha256, accept=accept)
        with self._locked() as descriptor:
            self._read(descriptor)
            before = self._known.get((name, version))
            holds = self._settle(name, version, sha256, accept=accept)
            if holds != before:
                try:
                    _append(descriptor, json.dumps([name, version, holds]) + "\n")
                except OSError:
                    del self._known[name, version]  # read again when it is asked for
                    raise
            return holds

    def _settle(self, name: str, version: int, sha256: str, *, accept: bool) -> str:
        if accept:
            self._known[name, version] = sha256
        return self._known.setdefault((name, version), sha256)

    def _read(self, descriptor: int) -> None:
        """Takes in what all workers wrote; of several lines on one number the last holds."""
        size = os.fstat(descriptor).st_size
        for line in os.pread(descriptor, size, 0).splitlines():
            name, version, sha256 = json.loads(line)
            self._known[name, version] = sha256

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Yields the file, which is this process's alone until the end of the block."""
        assert self._path is not None  # noqa: S101 - for the type checker; both callers looked
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)  # and with it goes the lock


def _append(descriptor: int, line: str) -> None:
    """Writes a whole line or none: half of one would spoil the file for every reader."""
    content, end = line.encode(), os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, content)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
    if written < len(content):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
