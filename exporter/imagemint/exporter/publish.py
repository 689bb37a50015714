"""Publishes a bundle in a model repository atomically, and never replaces another one."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imagemint.engine.bundle import SUMS_FILE
from imagemint.exporter.errors import ExportError
from imagemint.training.durable import flush, flush_directory

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.engine.bundle.signatures import SigningKey

STAGING_PREFIX = ".export-"
"""Prefix of staging directories. It begins with a dot, so that no server loads an incomplete
export.
"""


def choose_version(repository: Path, name: str, version: int | None) -> int:
    """Returns the version to write: the requested one, or one more than the last.

    Raises:
        ExportError: the requested version exists, or is below 1; or a file has the place of the
            repository or the model.
    """
    model = repository / name
    for place in (repository, model):
        if place.exists() and not place.is_dir():
            raise ExportError(
                f"{place} is a file, not a directory: no version can be written there"
            )
    existing = [int(p.name) for p in model.glob("*") if p.name.isascii() and p.name.isdigit()]
    if version is None:
        return max(existing, default=0) + 1
    if version < 1:
        raise ExportError(f"version must be 1 or more, not {version}")
    if version in existing:
        raise ExportError(f"{model / str(version)} exists; a version is never overwritten")
    return version


@contextmanager
def stage_version(
    repository: Path, name: str, version: int, signing_key: "SigningKey | None" = None
) -> Iterator[Path]:
    """Yields a directory `.../<name>/<version>` to fill, and publishes it at the end.

    One rename publishes the version. All files are flushed to the disk before it, so that a power
    cut leaves no incomplete version. After an error the repository is unchanged.

    Args:
        repository: the model repository; made if missing.
        name: the model.
        version: a version that does not exist.
        signing_key: signs the version. None: it is not signed.

    Raises:
        ExportError: another process has written the version meanwhile, or the repository cannot be
            made or written to.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        # In the repository itself, because a rename does not cross file systems.
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=repository))
    except OSError as error:
        raise ExportError(
            f"the model repository {repository} cannot be made or written to: {error.strerror}."
            " Choose another one, or change its permissions"
        ) from error
    try:
        directory = staging / name / str(version)
        directory.mkdir(parents=True)
        yield directory
        sums = write_sums(directory)
        if signing_key is not None:
            signing_key.sign(directory, sums)
        flush_directory(directory)
        _move(directory, repository / name / str(version))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_sums(directory: Path) -> bytes:
    """Writes and returns SHA256SUMS over all other files, as `sha256sum --check` reads it."""
    files = sorted(path for path in directory.iterdir() if path.name != SUMS_FILE)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    sums = "".join(lines).encode()
    (directory / SUMS_FILE).write_bytes(sums)
    return sums


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        # Fails if the target is a directory with files, which a version always is.
        source.rename(target)
    except OSError as error:
        if target.exists():
            raise ExportError(f"{target} was written by another process meanwhile") from error
        raise
    # The second one, because the folder of a new model may not be on the disk yet.
    flush([target.parent, target.parent.parent])
