"""Reads small configuration files safely, and reads them again when they change."""

import errno
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

_LARGEST_FILE = 2**20
# Several writes within one tick of the file system's clock leave the same metadata. A file that
# changed less than this long ago is therefore compared by its content.
_SETTLED_S = 2.0

_Signature = tuple[int, int, int, int, int]


def read_file(path: Path, most_bytes: int = _LARGEST_FILE) -> bytes:
    """Returns the content of a regular file. It never blocks, unlike reading a named pipe.

    Args:
        path: the file; links are followed.
        most_bytes: maximum size.

    Raises:
        OSError: the file cannot be read, is larger, or is not a regular file.
    """
    content, _ = _read(path, most_bytes)
    return content


class WatchedFiles:
    """The contents of some files, read again when one of them changes.

    A change is noted only once every file has been read: after a failed read, the next check tries
    again. Links are followed: swapping the link to a directory of secrets counts as a change.

    Args:
        paths: the files.
        most_bytes: maximum size of each file.
    """

    def __init__(self, paths: Sequence[Path], most_bytes: int = _LARGEST_FILE) -> None:
        self._paths = tuple(paths)
        self._most_bytes = most_bytes
        self._seen: tuple[_Signature, ...] | None = None
        self._contents: list[bytes] | None = None

    def read_changed(self) -> list[bytes] | None:
        """Returns the content of each file, or None if none changed since the last success.

        Raises:
            OSError: a file cannot be read, is too large, or is not a regular file.
        """
        if self._seen is not None and self._seen == tuple(map(_look, self._paths)):
            return None
        read = [_read(path, self._most_bytes) for path in self._paths]
        signatures = tuple(_make_signature(status) for _, status in read)
        # If a file is replaced while the others are read, the set is inconsistent. Its signatures
        # then differ from those of the paths, and the next check reads all files again.
        is_settled = all(abs(time.time() - status.st_ctime) > _SETTLED_S for _, status in read)
        self._seen = signatures if is_settled else None
        contents = [content for content, _ in read]
        if contents == self._contents:
            return None
        self._contents = contents
        return contents

    def forget(self) -> None:
        """Makes the next `read_changed` read and return every file."""
        self._seen = self._contents = None


def _read(path: Path, most_bytes: int) -> tuple[bytes, os.stat_result]:
    # Opening a named pipe would block until a writer opens it; opening a device can have effects.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):  # replaced between stat and open
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", str(path))
    return content, status


def _look(path: Path) -> _Signature | None:
    try:
        return _make_signature(path.stat())
    except OSError:
        return None


def _make_signature(status: os.stat_result) -> _Signature:
    """Returns the metadata that changes when a file is rewritten or replaced.

    It includes the inode's change time, because a file may be replaced by another one of the same
    size and modification time.
    """
    times = status.st_mtime_ns, status.st_ctime_ns
    return (status.st_dev, status.st_ino, status.st_size, *times)
