"""A data set in an object store, such as S3, or at any other address that fsspec knows.

An object appears when its upload is complete, so an upload takes the place of a rename. Other
stores, such as SFTP, show files that are half written: there, a file is uploaded as NAME.partial,
and renamed.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec

from imagemint.dataset.errors import CONTINUE, DatasetError, TemporaryFailure
from imagemint.dataset.folder import WORK, is_of_interest
from imagemint.dataset.scratch import open_scratch

_BLOCK = 2**20
_PARTIAL = ".partial"
_SIGNS_OF_NETWORK = ("connect", "timeout", "unavailable", "toomanyrequests")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "r2"}


class RemoteFolder:
    """A data set at an address that fsspec knows.

    The options of the file system, such as credentials, come from the environment or from fsspec's
    configuration; see the docs of fsspec.

    Args:
        place: the address, such as `s3://bucket/name`.

    Raises:
        DatasetError: fsspec does not know the address, or lacks the package of the store. The
            methods raise it, too, if the store cannot be used.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(self.place, skip_instance_cache=True)
        except (ValueError, ImportError) as error:
            raise DatasetError(f"{place}: {error}") from error
        except OSError:  # the command explains it
            raise
        except Exception as error:  # some stores, such as SFTP, connect at once
            raise self._translate(error) from error
        self._root = str(root).rstrip("/")
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._is_object_store = not names.isdisjoint(_OBJECT_STORES)

    def list_names(self, under: str = "") -> list[str]:
        """Returns the names in it, or in a folder of it, without those of half-written files."""
        self._files.invalidate_cache()
        place = self._make_path(under).rstrip("/")
        try:
            with self._explain_errors():
                found = self._files.ls(place, detail=False)
        except FileNotFoundError:
            return []
        names = {str(each).rstrip("/").rpartition("/")[2] for each in found}
        if not self._is_object_store:
            names = {name for name in names if not name.endswith(_PARTIAL)}
        return sorted(names - {place.rpartition("/")[2]})

    def list_files(self) -> Iterator[str]:
        """Yields the name of each file, without hidden ones beside the shards."""
        return filter(is_of_interest, self.survey())

    def measure(self, names: Iterable[str]) -> int:
        """Returns the size of some files together, in bytes."""
        sizes = self.survey()
        return sum(sizes[name] for name in names)

    def survey(self) -> dict[str, int]:
        """Returns the size in bytes of every file, from one listing."""
        self._files.invalidate_cache()
        with self._explain_errors():
            found = self._files.find(self._root, detail=True)
        return {
            str(path).removeprefix(f"{self._root}/"): int(info["size"] or 0)
            for path, info in found.items()
        }

    def check_root(self) -> None:
        """Raises DatasetError if the bucket does not exist."""
        if not self._is_object_store:
            return
        bucket = self._root.partition("/")[0]
        with self._explain_errors():
            exists = self._files.exists(bucket)
        if not exists:
            raise DatasetError(f"{self.place}: there is no bucket {bucket}")

    def read(self, name: str) -> bytes | None:
        """Returns the content of a small file; None if there is none."""
        self._files.invalidate_cache()
        try:
            with self._explain_errors():
                return bytes(self._files.cat_file(self._make_path(name)))
        except FileNotFoundError:
            return None

    def read_lines(self, name: str) -> Iterator[bytes]:
        """Yields the lines of a file, which need not fit into memory."""
        self._files.invalidate_cache()
        with self._explain_errors(), self._files.open(self._make_path(name), "rb") as file:
            yield from file

    def put(self, name: str, content: bytes) -> None:
        """Writes a file at once, replacing an earlier one."""
        with self._explain_errors(), self._write(name) as path:
            self._files.pipe_file(path, content)

    def put_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """Writes a file at once from parts, which need not fit into memory together."""
        with self.stage() as folder:
            staged = folder / "parts"
            with staged.open("wb") as file:
                file.writelines(parts)
            self._upload(staged, name)

    def compute_digest(self, name: str) -> str | None:
        """Returns the SHA-256 of a file; None if there is none."""
        self._files.invalidate_cache()
        digest = hashlib.sha256()
        try:
            with self._explain_errors(), self._files.open(self._make_path(name), "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def publish(self, staged: Path, name: str) -> None:
        """Uploads a file from the staging area."""
        self._upload(staged, name)

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Returns a new folder for unfinished files, in the temporary folder of this machine."""
        with open_scratch() as folder:
            yield folder

    def forget(self) -> None:
        """Deletes the journal of an earlier data set, whose other files were deleted."""
        self.finish()

    def finish(self) -> None:
        """Deletes the state of the unfinished data set."""
        with contextlib.suppress(FileNotFoundError), self._explain_errors():
            self._files.rm(self._make_path(WORK), recursive=True)

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Translates the errors of a store's own library, which share no base class."""
        try:
            yield
        except OSError:  # the command explains it
            raise
        except Exception as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> DatasetError:
        # Names are all that the errors of different libraries have in common.
        names = " ".join(each.__name__ for each in type(error).__mro__).lower()
        passes = any(sign in names for sign in _SIGNS_OF_NETWORK)
        return (TemporaryFailure if passes else DatasetError)(
            f"{self.place}: {type(error).__name__}: {error}. {CONTINUE}"
        )

    @contextlib.contextmanager
    def _write(self, name: str) -> Iterator[str]:
        """Yields the path to which to write a file, which then appears at once.

        The folder of the file is made, unless the store has none: there, it would make a bucket.
        """
        path = self._make_path(name)
        if self._is_object_store:
            yield path
            return
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        yield f"{path}{_PARTIAL}"
        if self._files.exists(path):  # not all file systems replace a file
            self._files.rm_file(path)
        self._files.mv(f"{path}{_PARTIAL}", path)

    def _upload(self, staged: Path, name: str) -> None:
        with self._explain_errors(), self._write(name) as path:
            self._files.put_file(str(staged), path)

    def _make_path(self, name: str) -> str:
        return f"{self._root}/{name}"
