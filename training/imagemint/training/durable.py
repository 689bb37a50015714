"""Writes files that survive a power cut."""

import os
from collections.abc import Iterable
from pathlib import Path


def flush_directory(directory: Path) -> None:
    """Flushes the files of a directory, and then the directory itself, to the disk.

    Raises:
        OSError: a file cannot be opened or written.
    """
    flush([*(path for path in directory.iterdir() if path.is_file()), directory])


def flush(paths: Iterable[Path]) -> None:
    """Flushes files and directories to the disk, in order.

    Raises:
        OSError: one of them cannot be opened or written.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
