"""A log in which the workers of one server share what they found out about bundles."""

import errno
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SharedLog:
    """Values by topic, in the order in which any worker appended them; thread-safe.

    Args:
        path: a file on a local disk that all workers share; it is created if missing. It belongs
            to one run of the server: delete it afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def lock(self) -> Iterator["LockedLog"]:
        """Returns the log, to which nobody else appends until the end of the block.

        Raises:
            OSError: the file cannot be opened.
        """
        with self._open() as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield LockedLog(descriptor)

    @contextmanager
    def lock_task(self, name: str) -> Iterator[None]:
        """Waits until no other thread or worker holds a task; others can use the log meanwhile.

        A worker that dies lets go of its tasks. Two tasks can share a lock by chance: do not hold
        two tasks at once. On a kernel without such locks, as some sandboxes have it, nobody waits.

        Raises:
            OSError: the file cannot be opened.
        """
        with self._open() as descriptor:
            # A lock of one byte, which need not exist. It belongs to the open file, not to the
            # process as older locks of ranges do, so threads exclude each other, too.
            place = zlib.crc32(name.encode())
            request = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, request)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            yield

    @contextmanager
    def _open(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)  # releases the lock


class LockedLog:
    """A log while it is locked; see `SharedLog.lock`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, topic: str) -> list[Any]:
        """Returns the values of a topic, which are JSON values, oldest first."""
        lines = map(json.loads, os.pread(self._descriptor, self._measure(), 0).splitlines())
        return [value for found, value in lines if found == topic]

    def append(self, topic: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """Appends a value.

        Raises:
            OSError: the file cannot be written, for example because the disk is full; nothing is
                appended.
        """
        # A partial line would corrupt the file for every reader.
        content, end = (json.dumps([topic, value]) + "\n").encode(), self._measure()
        try:
            written = os.write(self._descriptor, content)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        if written < len(content):
            os.ftruncate(self._descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _measure(self) -> int:
        return os.fstat(self._descriptor).st_size
