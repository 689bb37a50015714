"""Sources of bundles: a directory, or a copy of an object store."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from imagemint.server.repository.scan import Found, Signature, read_signature, scan


class SourceLost(OSError):  # noqa: N818 - the name states the condition
    """The repository cannot be reached now. Copies of it may be on the local disk."""


class Source(Protocol):
    """Lists the versions of a repository, and brings them to the local disk."""

    directory: Path
    """The directory with ``<model>/<version>/``."""
    place: str
    """The repository as the operator named it."""

    def list_present(self) -> Found:
        """Returns the versions that are known without a network access.

        Raises:
            OSError: it cannot be listed.
        """

    def scan(self, max_age_s: float = 0.0) -> Found:
        """Returns the versions that exist now.

        Args:
            max_age_s: age up to which a listing by another process will do.

        Raises:
            SourceLost: the repository cannot be reached now.
            OSError: the repository cannot be listed.
        """

    def read_signature(self, directory: Path) -> Signature:
        """Returns a value that differs if a file of a version changed."""

    def is_present(self, directory: Path) -> bool:
        """Returns whether the files of a version are on the local disk."""

    def fetch(self, directory: Path) -> None:
        """Brings the files of a version to the local disk.

        Raises:
            BundleRefused: the files cannot be fetched now, or are not those of the bundle.
        """

    def repair(self, directory: Path) -> bool:
        """Drops the local copy of a version if it is damaged, and returns whether it was."""

    def delete_unused(self, used: Collection[Path]) -> None:
        """Deletes local copies of versions other than `used`."""


class LocalDirectory:
    """A repository on the local disk or a mounted one.

    Args:
        directory: the repository.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.place = str(directory)

    def list_present(self) -> Found:
        """Returns the versions that exist."""
        return scan(self.directory)

    def scan(self, max_age_s: float = 0.0) -> Found:
        """Returns the versions that exist."""
        del max_age_s  # a listing of the directory is always current
        return scan(self.directory)

    def read_signature(self, directory: Path) -> Signature:
        """Returns the metadata of the files of a version."""
        return read_signature(directory)

    def is_present(self, directory: Path) -> bool:
        """Returns true, because the files are always on a mounted disk."""
        del directory
        return True

    def fetch(self, directory: Path) -> None:
        """Does nothing."""

    def repair(self, directory: Path) -> bool:
        """Returns false, because these files are not copies."""
        del directory
        return False

    def delete_unused(self, used: Collection[Path]) -> None:
        """Does nothing."""
