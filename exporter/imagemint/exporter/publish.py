"""Putting a bundle into a model repository: whole or not at all, and never over another."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagemint.engine.bundle import SUMS_FILE
from imagemint.exporter.errors import ExportError
from imagemint.training.durable import flush, flush_directory

STAGING_PREFIX = ".export-"
"""Begins with a dot: no server takes it for a model, whatever a killed export leaves in it."""


def choose_version(repository: Path, name: str, version: int | None) -> int:
    """The version to write: the one asked for, or the one after the last.

    Raises:
        ExportError: the version asked for exists, or is not 1 or more.
    """
    model = repository / name
    taken = [int(p.name) for p in model.glob("*") if p.name.isascii() and p.name.isdigit()]
    if version is None:
        return max(taken, default=0) + 1
    if version < 1:
        raise ExportError(f"version must be 1 or more, not {version}")
    if version in taken:
        raise ExportError(f"{model / str(version)} exists; a version is never overwritten")
    return version


@contextmanager
def staged(repository: Path, name: str, version: int) -> Iterator[Path]:
    """A directory `.../<name>/<version>` to fill; moved into the repository if all went well.

    The rename is the only step that publishes. Before it everything is flushed to the disk, so
    that not even a power cut leaves a version with half a file in it.

    Raises:
        ExportError: somebody else has written the version meanwhile.
    """
    repository.mkdir(parents=True, exist_ok=True)
    # In the repository itself, for a rename does not cross file systems.
    staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=repository))
    try:
        directory = staging / name / str(version)
        directory.mkdir(parents=True)
        yield directory
        write_sums(directory)
        flush_directory(directory)
        _move(directory, repository / name / str(version))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_sums(directory: Path) -> None:
    """Writes SHA256SUMS over all other files, as `sha256sum --check` reads it."""
    files = sorted(path for path in directory.iterdir() if path.name != SUMS_FILE)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (directory / SUMS_FILE).write_text("".join(lines))


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        # Fails on a directory that holds anything, which a version always does.
        source.rename(target)
    except OSError as error:
        if target.exists():
            raise ExportError(f"{target} was written by somebody else meanwhile") from error
        raise
    flush([target.parent])
