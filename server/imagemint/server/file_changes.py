"""Reads small configured files safely, and reads them again when they change."""

import errno
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

_LARGEST_FILE = 2**20
# Several writes within one tick of the file system's clock leave the same metadata, so that a file
# which changed a moment ago is compared by its content until it is older than this.
_SETTLED_S = 2.0

_Signature = tuple[int, int, int, int, int]


def read_file(path: Path, most_bytes: int = _LARGEST_FILE) -> bytes:
    """Returns the content of a regular file, without ever waiting for a writer.

    Args:
        path: the file; links are followed.
        most_bytes: largest size that is read.

    Raises:
        OSError: it cannot be read, is larger, or is no regular file, such as a named pipe.
    """
    content, _ = _read(path, most_bytes)
    return content


class WatchedFiles:
    """The contents of some files, read again when one of them changes.

    A change counts as seen only once every file has been read: after a read that failed, the next
    look tries again. Links are followed, so a directory of secrets that is replaced by swapping a
    link counts as a change.

    Args:
        paths: the files.
        most_bytes: largest size of each.
    """

    def __init__(self, paths: Sequence[Path], most_bytes: int = _LARGEST_FILE) -> None:
        self._paths = tuple(paths)
        self._most_bytes = most_bytes
        self._seen: tuple[_Signature, ...] | None = None
        self._contents: list[bytes] | None = None

    def changed(self) -> list[bytes] | None:
        """Returns the content of each file; None if all are as they were at the last success.

        Raises:
            OSError: a file cannot be read, is too large, or is no regular file.
        """
        if self._seen is not None and self._seen == tuple(map(_look, self._paths)):
            return None
        read = [_read(path, self._most_bytes) for path in self._paths]
        signatures = tuple(_signature(status) for _, status in read)
        # A file that was replaced while the others were read makes the set inconsistent: the
        # signatures then differ from those of the paths, and the next look reads all of them again.
        is_settled = all(abs(time.time() - status.st_ctime) > _SETTLED_S for _, status in read)
        self._seen = signatures if is_settled else None
        contents = [content for content, _ in read]
        if contents == self._contents:
            return None
        self._contents = contents
        return contents

    def forget(self) -> None:
        """Makes the next `changed` read and return every file."""
        self._seen = self._contents = None


def _read(path: Path, most_bytes: int) -> tuple[bytes, os.stat_result]:
    # Opening a pipe would wait for its writer, and opening a device may set it going.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):  # replaced between the look and the opening
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", str(path))
    return content, status


def _look(path: Path) -> _Signature | None:
    try:
        return _signature(path.stat())
    except OSError:
        return None


def _signature(status: os.stat_result) -> _Signature:
    """The metadata that changes when a file is rewritten or replaced.

    The time of the last change of the inode is part of it: a file may be replaced by another of the
    same age and size.
    """
    times = status.st_mtime_ns, status.st_ctime_ns
    return (status.st_dev, status.st_ino, status.st_size, *times)
