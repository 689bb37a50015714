"""Bundles on the local disk, by digest, and the repository of links to them."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from imagemint.server.storage.listing import Listing

# Time for which a bundle that is not in use stays, in case another process is loading it.
_UNUSED_S = 600.0
_LISTING = "listing.json"
_LOCK = "lock"


class BundleCache:
    """A directory that the processes of a server share; thread-safe.

    =============================== ===========================================================
    ``models/<model>/<version>``    a link to its bundle, which may not be there yet
    ``bundles/<id>/``               the files of a complete bundle
    ``partial/<id>/``               the files of a bundle that is being copied
    ``listing.json``, ``lock``      the last listing, and the lock of everything but the copying
    =============================== ===========================================================

    A bundle appears by a rename, and a version changes by the replacement of its link.

    Args:
        root: the directory, on a local disk; made if missing.

    Raises:
        OSError: it cannot be made, or belongs to another user, who could change what is served.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.models = self.root / "models"
        self._bundles = self.root / "bundles"
        self._partial = self.root / "partial"
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700, exist_ok=True)
        if self.root.stat().st_uid != os.geteuid():
            raise PermissionError(f"the cache {self.root} belongs to another user")
        for directory in (self.models, self._bundles, self._partial):
            directory.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def hold_lock(self) -> Iterator[None]:
        """Excludes other threads and processes until the end of the block."""
        with (self.root / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read_listing(self) -> Listing:
        """Returns the last listing; an empty one if there is none."""
        try:
            return Listing.of_json((self.root / _LISTING).read_text())
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return Listing()

    def write_listing(self, listing: Listing) -> None:
        """Replaces the last listing."""
        draft = self.root / f".{_LISTING}"
        draft.write_text(listing.to_json())
        draft.replace(self.root / _LISTING)

    def link(self, bundles: Mapping[str, str]) -> None:
        """Makes the links those of `bundles`, ids by ``model/version``; removes all others."""
        for key, bundle in bundles.items():
            link = self.models / key
            if _read_link(link) != bundle:
                link.parent.mkdir(exist_ok=True)
                draft = link.with_name(f".{link.name}")
                draft.unlink(missing_ok=True)
                draft.symlink_to(Path("../..", self._bundles.name, bundle))
                draft.replace(link)
        for link in self.models.glob("*/*"):
            if link.relative_to(self.models).as_posix() not in bundles:
                link.unlink()
        for model in self.models.iterdir():
            with contextlib.suppress(OSError):  # it has versions
                model.rmdir()

    def find_bundle(self, directory: Path) -> str:
        """Returns the id of the bundle of a version; empty if the version is gone."""
        return _read_link(directory)

    def touch(self, bundle: str) -> bool:
        """Returns whether a bundle is complete, and marks it as used now if so."""
        try:
            os.utime(self._bundles / bundle)
        except FileNotFoundError:
            return False
        return True

    def fill(self, bundle: str, copy: Callable[[Path], None]) -> None:
        """Adds a bundle unless it is there. Of several processes, one does, and the others wait.

        Args:
            bundle: its id.
            copy: writes its files into a directory, which has some of them if an earlier attempt
                was interrupted. An error leaves them for the next attempt.
        """
        partial = self._partial / bundle
        while not self.touch(bundle):
            partial.mkdir(exist_ok=True)
            with _lock_directory(partial) as is_current:
                if is_current and not self.touch(bundle):
                    copy(partial)
                    partial.rename(self._bundles / bundle)

    def drop(self, bundle: str) -> None:
        """Deletes a bundle."""
        self._delete(self._bundles / bundle)

    def clean(self, used: Collection[str]) -> None:
        """Deletes the bundles and interrupted copies that are not in use and have not been lately.

        Args:
            used: ids of the bundles in use.
        """
        until = time.time() - _UNUSED_S
        for path in self._bundles.iterdir():
            if path.name not in used and _is_older(path, until):
                self._delete(path)
        for path in self._partial.iterdir():
            if _is_older(path, until):
                with _lock_directory(path, wait=False) as is_current:
                    if is_current:
                        shutil.rmtree(path, ignore_errors=True)

    def _delete(self, path: Path) -> None:
        # Renamed first, so that a bundle never exists in part.
        trash = self._partial / f"deleted-{path.name}"
        with contextlib.suppress(OSError):  # another process deletes it, too
            path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def _is_older(path: Path, until: float) -> bool:
    try:
        return path.stat().st_mtime < until
    except FileNotFoundError:  # deleted by another process
        return False


def _read_link(path: Path) -> str:
    try:
        return path.readlink().name
    except OSError:
        return ""


@contextlib.contextmanager
def _lock_directory(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Locks a directory; yields False if it was renamed or deleted meanwhile, or is not free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor, wait=wait) and _is_at(descriptor, path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
