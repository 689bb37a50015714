"""The objects of a model repository, through fsspec. The only module that imports it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from imagemint.server.storage.errors import StoreError

_BLOCK = 2**20
# A file is read in requests of this size, and one more is kept.
_REQUEST_BYTES = 8 * 2**20
_FILES_DEPTH = 3


@dataclass(frozen=True)
class Stored:
    """An object as a listing describes it."""

    size: int
    """Its size in bytes."""
    stamp: str
    """All that the listing says about it; differs if the object was written again."""


class ObjectStore:
    """Reads the objects under an address. Options and credentials come from the environment.

    Args:
        address: the address, such as ``s3://bucket/models``.

    Raises:
        StoreError: the packages for this kind of address are missing, or there is no such kind.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        try:
            import fsspec  # noqa: PLC0415 - the extra is optional
        except ImportError:
            raise StoreError(
                f"the repository {address} needs the extra store: pip install 'imagemint[store]'",
                lasting=True,
            ) from None
        try:
            # Not shared with others in the process, whose cached listings it would see.
            files, root = fsspec.core.url_to_fs(self.address, skip_instance_cache=True)
        except ImportError as error:
            why = f"the repository {address} needs another package: {error}"
            raise StoreError(why, lasting=True) from error
        except ValueError as error:
            raise StoreError(f"the repository {address}: {error}", lasting=True) from error
        self._files: Any = files
        self._root = str(root).rstrip("/")

    def list(self) -> dict[str, dict[str, Stored]]:
        """Returns the files by directory ``model/version``, and by name.

        Hidden directories, and files that are not in the directory of a version, are left out.

        Raises:
            StoreError: the store cannot be listed.
        """
        try:
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
            if not found:
                self._check_bucket()
        except Exception as error:  # noqa: BLE001 - each file system has its own errors
            self._fail("cannot be listed", error)
        listed: dict[str, dict[str, Stored]] = {}
        for path, detail in found.items():
            parts = str(path).removeprefix(self._root).strip("/").split("/")
            if len(parts) == _FILES_DEPTH and not any(part.startswith(".") for part in parts):
                stored = Stored(int(detail["size"] or 0), _compute_stamp(detail))
                listed.setdefault("/".join(parts[:2]), {})[parts[2]] = stored
        return listed

    def _check_bucket(self) -> None:
        """Raises FileNotFoundError if there is no such bucket: adlfs lists it as empty instead."""
        bucket = self._root.partition("/")[0]
        if bucket and not self._files.exists(bucket):
            raise FileNotFoundError(bucket)

    def read(self, key: str, max_bytes: int) -> bytes:
        """Returns the content of a small object.

        Args:
            key: its path below the address.
            max_bytes: maximum size.

        Raises:
            StoreError: it cannot be read, or is larger.
        """
        try:
            with self._open(key) as file:
                content = bytes(file.read(max_bytes + 1))
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(f"cannot be read at {key}", error)
        if len(content) > max_bytes:
            raise StoreError(f"{key} is larger than {max_bytes:,} bytes")
        return content

    def download(self, key: str, path: Path, max_bytes: int) -> str:
        """Copies an object to a file, and returns the SHA-256 of what was written.

        Args:
            key: its path below the address.
            path: the file to write.
            max_bytes: maximum size.

        Raises:
            StoreError: it cannot be read, or is larger.
            OSError: the file cannot be written.
        """
        digest, left = hashlib.sha256(), max_bytes
        with path.open("wb") as copy:
            for block in self._read_blocks(key):
                left -= len(block)
                if left < 0:
                    raise StoreError(f"{key} is larger than {max_bytes:,} bytes")
                digest.update(block)
                copy.write(block)
        return digest.hexdigest()

    def _read_blocks(self, key: str) -> Iterator[bytes]:
        try:
            with self._open(key) as file:
                while block := file.read(_BLOCK):
                    yield block
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(f"cannot be read at {key}", error)

    def _open(self, key: str) -> Any:  # noqa: ANN401 - fsspec has no types
        path = f"{self._root}/{key}"
        return self._files.open(path, "rb", block_size=_REQUEST_BYTES, cache_type="readahead")

    def _fail(self, what: str, error: Exception) -> NoReturn:
        lasting = isinstance(error, FileNotFoundError | PermissionError)
        text = " ".join(str(error).split()) or type(error).__name__
        why = f"the repository {self.address} {what}: {type(error).__name__}: {text}"
        raise StoreError(why, lasting=lasting) from error


def _compute_stamp(detail: dict[str, Any]) -> str:
    # All fields, because each file system has others: ETag, mtime, generation, created. But not the
    # time of the last access, which some accounts of Azure record: reading an object changes it.
    fields = ((name, str(value)) for name, value in detail.items() if name != "last_accessed_on")
    text = repr(sorted(fields))
    return hashlib.sha256(text.encode()).hexdigest()
