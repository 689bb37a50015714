"""A model repository in an object store, as `ModelRepository` sees it."""

import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from imagemint.engine.bundle.sums import (
    SIGNATURE_FILE,
    SUMS_FILE,
    SUMS_MAX_BYTES,
    parse_sums,
)
from imagemint.engine.errors import BundleRefused
from imagemint.engine.manifest_checks import MODEL_NAME
from imagemint.server.repository.scan import VERSION, Found, Signature, scan
from imagemint.server.repository.source import SourceLost
from imagemint.server.storage.cache import BundleCache
from imagemint.server.storage.errors import StoreError
from imagemint.server.storage.listing import Entry, Listing
from imagemint.server.storage.objects import ObjectStore, Stored
from imagemint.server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

_SIGNATURE_MAX_BYTES = 4 * 1024


def open_mirror(
    address: str,
    cache: Path | None,
    metrics: Metrics,
    *,
    max_bytes: int,
    unload_when_empty: bool = False,
) -> "Mirror":
    """Returns the repository at an address; see `Mirror`.

    Args:
        address: the address, such as ``s3://bucket/models``.
        cache: the directory of all caches. None: ``imagemint/repositories`` in the user's cache.
        metrics: as for `Mirror`, like all that follow.
        max_bytes: as above.
        unload_when_empty: as above.

    Raises:
        StoreError: a package is missing, or there is no such kind of address.
        OSError: the cache cannot be made.
    """
    store = ObjectStore(address)
    # A directory of its own for each address.
    name = hashlib.sha256(store.address.encode()).hexdigest()[:16]
    files = BundleCache((cache or _find_user_cache()) / name)
    return Mirror(store, files, metrics, max_bytes=max_bytes, unload_when_empty=unload_when_empty)


def _find_user_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "imagemint/repositories"


class Mirror:
    """Lists a repository in an object store, and copies the bundles that are to be loaded.

    A version counts when its SHA256SUMS is there, and every file that it lists. While a version is
    written again, the earlier bundle stays. All files are checked against their digests as they
    are copied. Processes of a server share the cache: one of them lists or copies, and the others
    use the result.

    Args:
        store: the object store.
        cache: the directory of the copies.
        metrics: the metrics to update.
        max_bytes: maximum size of a file.
        unload_when_empty: whether a repository without any version is an empty one. If not, it is
            an error, and the last listing stays.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: BundleCache,
        metrics: Metrics,
        *,
        max_bytes: int,
        unload_when_empty: bool = False,
    ) -> None:
        self.directory = cache.models
        self.place = store.address
        self._store = store
        self._cache = cache
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._unload_when_empty = unload_when_empty

    # --- listing --------------------------------------------------------------------------------

    def list_present(self) -> Found:
        """Returns what the last listing found, perhaps of an earlier run."""
        return self._find(self._cache.read_listing())

    def scan(self, max_age_s: float = 0.0) -> Found:
        """Lists the store, unless another process did so less than `max_age_s` ago.

        Raises:
            SourceLost: the store cannot be listed. The last listing stays.
            StoreError: the address or the credentials are wrong, and there is no last listing.
            OSError: the cache cannot be written.
        """
        with self._cache.hold_lock():
            listing = self._cache.read_listing()
            if not listing.is_fresh(max_age_s):
                listing = self._list(listing)
                self._record(listing)
        if listing.error and listing.lasting and not listing.entries:
            raise StoreError(listing.error, lasting=True)
        if listing.error:
            raise SourceLost(listing.error)
        return self._find(listing)

    def _record(self, listing: Listing) -> None:
        """Writes a listing to the cache, and links the bundles that it has.

        Raises:
            OSError: the cache cannot be written.
        """
        try:
            self._cache.write_listing(listing)
            if not listing.error:
                bundles = {k: e.bundle for k, e in listing.entries.items() if e.bundle}
                self._cache.link(bundles)
        except OSError as error:  # a full disk is not named in the error
            why = f"its cache {self._cache.root} cannot be written: {error.strerror}"
            raise OSError(error.errno, why) from error

    def _list(self, before: Listing) -> Listing:
        try:
            listed = self._store.list()
            entries = {
                key: self._describe(key, files, before.entries.get(key, Entry("")))
                for key, files in sorted(listed.items())
            }
            self._check_empty(before.entries, entries)
        except StoreError as error:
            self._count("listing", "failed")
            return replace(before, at=time.time(), error=str(error), lasting=error.lasting)
        self._count("listing", "ok")
        return Listing(time.time(), entries)

    def _check_empty(self, before: Mapping[str, Entry], now: Mapping[str, Entry]) -> None:
        if before and not now and not self._unload_when_empty:
            raise StoreError(
                f"the repository {self.place} contains no model any more; set unload_when_empty to"
                " unload them"
            )

    def _describe(self, key: str, files: Mapping[str, Stored], before: Entry) -> Entry:
        """Returns the entry of a version, from its files if they changed since the last listing."""
        stamp = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        if stamp == before.stamp:
            return before
        model, version = key.split("/")
        if not MODEL_NAME.fullmatch(model) or not VERSION.fullmatch(version):
            return Entry(stamp, fault="a bundle must be at <model>/<version>/")
        if SUMS_FILE not in files:
            return Entry(stamp, fault=f"its upload is not complete: {SUMS_FILE} is missing")
        is_signed = SIGNATURE_FILE in files
        try:
            sums, signature = self._read_sums(key, is_signed=is_signed)
            _check_complete(sums, files)
        except StoreError as error:
            if not error.lasting:
                raise
            return replace(before, stamp="", fault=str(error))  # read again next time
        except ValueError as error:
            return replace(before, stamp=stamp, fault=str(error))
        return Entry(stamp, _compute_bundle_id(sums, signature), is_signed)

    def _find(self, listing: Listing) -> Found:
        found = scan(self.directory)
        faults = {key: entry.fault for key, entry in listing.entries.items() if entry.fault}
        found.ignored.update(faults)
        self._metrics.repository_incomplete_versions.set(len(faults))
        return found

    def _read_sums(self, key: str, *, is_signed: bool) -> tuple[bytes, bytes]:
        sums = self._store.read(f"{key}/{SUMS_FILE}", SUMS_MAX_BYTES)
        path = f"{key}/{SIGNATURE_FILE}"
        return sums, self._store.read(path, _SIGNATURE_MAX_BYTES) if is_signed else b""

    # --- copying --------------------------------------------------------------------------------

    def read_signature(self, directory: Path) -> Signature:
        """Returns the id of the bundle of a version, in the form of a signature."""
        return ((self._cache.find_bundle(directory), 0, 0, 0, 0),)

    def is_present(self, directory: Path) -> bool:
        """Returns whether the bundle of a version is in the cache."""
        return self._cache.touch(self._cache.find_bundle(directory))

    def fetch(self, directory: Path) -> None:
        """Copies the bundle of a version into the cache.

        Raises:
            BundleRefused: the store cannot be read, the cache cannot be written, or a file in the
                store does not have the digest in SHA256SUMS. A later attempt may succeed.
        """
        bundle = self._cache.find_bundle(directory)
        key = directory.relative_to(self.directory).as_posix()
        began = time.perf_counter()
        try:
            if not bundle:
                raise StoreError(f"{key} is not in the repository any more")
            self._cache.fill(bundle, lambda partial: self._copy(key, bundle, partial))
        except OSError as error:
            self._count("bundle", "failed")
            # The log has the address, which the reason for callers leaves out.
            _log.error("%s was not copied from %s: %s", key, self.place, error)
            why = "it was not copied from the object store; see the log"
            if not isinstance(error, StoreError):
                why = f"it was not copied from the object store: {error.strerror}"
            raise BundleRefused(directory, why, passing=True) from error
        except BundleRefused:
            self._count("bundle", "failed")
            raise
        took_s = time.perf_counter() - began
        _log.info("copied %s (%s) from %s in %.2f s", key, bundle[:12], self.place, took_s)

    def _copy(self, key: str, bundle: str, partial: Path) -> None:
        """Copies the files of a bundle that are not in `partial` yet, and checks each."""
        entry = self._cache.read_listing().entries.get(key, Entry(""))
        sums, signature = self._read_sums(key, is_signed=entry.is_signed)
        if _compute_bundle_id(sums, signature) != bundle:
            raise StoreError(f"{key} was written again meanwhile")
        for name, digest in parse_sums(sums).items():
            path = partial / name
            if path.exists() and _compute_digest(path) == digest:
                continue
            if self._store.download(f"{key}/{name}", path, self._max_bytes) != digest:
                path.unlink()
                why = f"{name} in the object store is not the file that {SUMS_FILE} lists"
                raise BundleRefused(self.directory / key, why, passing=True)
            _flush(path)
        for name, content in ((SUMS_FILE, sums), (SIGNATURE_FILE, signature)):
            if content:
                (partial / name).write_bytes(content)
                _flush(partial / name)
        self._count("bundle", "ok")

    def repair(self, directory: Path) -> bool:
        """Deletes the copy of a version if its files are not those of its bundle any more."""
        bundle = self._cache.find_bundle(directory)
        try:
            sums = (directory / SUMS_FILE).read_bytes()
            signature = directory / SIGNATURE_FILE
            signed = signature.read_bytes() if signature.exists() else b""
            is_whole = _compute_bundle_id(sums, signed) == bundle and all(
                _compute_digest(directory / name) == digest
                for name, digest in parse_sums(sums).items()
            )
        except (OSError, ValueError):
            is_whole = False
        if not is_whole:
            _log.error("the copy of %s in the cache is damaged, and is deleted", directory)
            self._cache.drop(bundle)
        return not is_whole

    def delete_unused(self, used: Collection[Path]) -> None:
        """Deletes the bundles that are not in use and have not been lately."""
        self._cache.clean({self._cache.find_bundle(directory) for directory in used})

    def _count(self, what: str, outcome: str) -> None:
        self._metrics.repository_syncs.labels(what, outcome).inc()


def _check_complete(sums: bytes, files: Mapping[str, Stored]) -> None:
    """Raises ValueError if a file of a bundle is missing in the store."""
    missing = sorted(parse_sums(sums).keys() - files.keys())
    if missing:
        raise ValueError(f"its upload is not complete: {', '.join(missing)} is missing")


def _compute_bundle_id(sums: bytes, signature: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(sums).digest() + signature).hexdigest()


def _compute_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
