"""Writes files that are either complete or absent."""

import os
from pathlib import Path

from imagemint.training.durable import flush


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically, and makes its folder. A kill or power cut keeps the earlier file.

    Raises:
        OSError: it cannot be written. The earlier file is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        flush([part])
        part.replace(path)
        flush([path.parent])
    finally:
        part.unlink(missing_ok=True)
