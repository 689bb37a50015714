"""Writes files that are either complete or absent."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
