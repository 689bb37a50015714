"""Telling by its metadata whether a file was replaced or rewritten since it was last read."""

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[tuple[int, int, int, int, int] | None, ...]


def signature_of(paths: Iterable[Path]) -> Signature:
    """Returns what changes when a file does; None stands for one that cannot be looked at.

    Links are followed, so that a directory of secrets that is swapped by a link counts as changed.
    The time of the last change of the inode is part of it: a file that was replaced by another of
    the same age and size is a change too.
    """
    return tuple(_seen(path) for path in paths)


def _seen(path: Path) -> tuple[int, int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
