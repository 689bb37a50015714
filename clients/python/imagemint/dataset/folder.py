"""The files of a data set: each is complete or absent.

A shard is written to a staging area. Publishing it has three steps, each of which can be repeated
after an interruption:

1. The files are flushed to the disk.
2. The journal gets an entry with the name, size and digest of each file.
3. The files are renamed to their names.

A file that is in the journal belongs to the data set. Any other file with the same name is foreign,
and is never replaced.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from imagemint.dataset.errors import CONTINUE, DatasetError, OtherPlan, TemporaryFailure
from imagemint.dataset.plan import Shard

WORK = ".imagemint"
"""Folder for the state of an unfinished data set."""
_ENTRIES = f"{WORK}/done"
# More files than this are flushed together, because each flush waits for the disk.
_FLUSHED_SINGLY = 16
_BUFFER_BYTES = 2**20
# The network is away.
_PASSING = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}


class WrittenFile(NamedTuple):
    """One finished file."""

    name: str
    """Name, relative to the data set, with slashes."""
    size: int
    """Size in bytes."""
    sha256: str
    """SHA-256, lower-case hexadecimal."""


class Folder(Protocol):
    """The place of a data set."""

    place: str
    """Its path or address, for messages."""

    def list_names(self, under: str = "") -> list[str]:
        """Returns some of the names in it, or in a folder of it."""

    def list_files(self) -> Iterator[str]:
        """Yields the name of each file, without the state of an unfinished data set.

        Hidden files beside the shards are left out.
        """

    def measure(self, names: Iterable[str]) -> int:
        """Returns the size of some files together, in bytes."""

    def survey(self) -> dict[str, int] | None:
        """Returns the size in bytes of every file; None if a digest is as quick, as on a disk."""

    def check_root(self) -> None:
        """Raises DatasetError if the data set has no place, such as a missing bucket."""

    def read(self, name: str) -> bytes | None:
        """Returns the content of a small file; None if there is none."""

    def read_lines(self, name: str) -> Iterator[bytes]:
        """Yields the lines of a file, which need not fit into memory.

        Raises:
            FileNotFoundError: there is none.
        """

    def put(self, name: str, content: bytes) -> None:
        """Writes a file at once, replacing an earlier one."""

    def put_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """Writes a file at once from parts, which need not fit into memory together."""

    def compute_digest(self, name: str) -> str | None:
        """Returns the SHA-256 of a file; None if there is none."""

    def publish(self, staged: Path, name: str) -> None:
        """Moves a flushed file from the staging area to its name."""

    def stage(self) -> contextlib.AbstractContextManager[Path]:
        """Returns a new folder for unfinished files, on a local disk; it is deleted at the end."""

    def forget(self) -> None:
        """Deletes the journal of an earlier data set, whose other files were deleted."""

    def finish(self) -> None:
        """Deletes the state of the unfinished data set."""


class LocalFolder:
    """A data set on a local disk.

    Args:
        path: the folder; `lock` makes it.

    Raises:
        OtherPlan: a file has its name.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise OtherPlan(f"{path} exists and is not a folder")
        self.path = path
        self.place = str(path)
        self._parents: set[str] = set()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the folder, keeps other runs out, and waits for the workers of an earlier run.

        Unfinished files of earlier runs are deleted.

        Raises:
            DatasetError: another run is active.
        """
        (self.path / WORK).mkdir(parents=True, exist_ok=True)
        with self._open_lock("run.lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DatasetError(
                    f"another run of imagemint dataset writes to {self.path}"
                ) from None
            with self._open_lock("workers.lock") as workers:
                fcntl.flock(workers, fcntl.LOCK_EX)
            self._delete_partial_files()
            try:
                yield
            finally:
                # The folder of the lock is gone if the data set is complete.
                with (
                    contextlib.suppress(FileNotFoundError, BlockingIOError),
                    self._open_lock("workers.lock") as workers,
                ):
                    fcntl.flock(workers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._delete_partial_files()  # of workers that were killed

    @contextlib.contextmanager
    def hold_as_worker(self) -> Iterator[None]:
        """Lets a later run wait for the end of this process."""
        with self._open_lock("workers.lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def list_names(self, under: str = "") -> list[str]:
        """Returns the names in the folder, or in a folder of it."""
        try:
            return sorted(os.listdir(self.path / under))  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []

    def list_files(self) -> Iterator[str]:
        """Yields the name of each file, without hidden ones beside the shards."""
        folders = [""]
        while folders:
            inside = folders.pop()
            # os.walk would hold the names of a folder, which can be those of all images.
            with os.scandir(self.path / inside) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    if not is_of_interest(name):
                        continue
                    if not entry.is_dir():
                        yield name
                    elif not entry.is_symlink():
                        folders.append(f"{name}/")

    def measure(self, names: Iterable[str]) -> int:
        """Returns the size of some files together, in bytes."""
        return sum(os.stat(f"{self.path}/{name}").st_size for name in names)  # noqa: PTH116 - fast

    def survey(self) -> None:
        """Returns None."""

    def check_root(self) -> None:
        """Does nothing: `lock` makes the folder."""

    def read(self, name: str) -> bytes | None:
        """Returns the content of a small file; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def read_lines(self, name: str) -> Iterator[bytes]:
        """Yields the lines of a file, which need not fit into memory."""
        with (self.path / name).open("rb") as file:
            yield from file

    def put(self, name: str, content: bytes) -> None:
        """Writes a file at once, replacing an earlier one."""
        self.put_parts(name, [content])

    def put_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """Writes a file at once from parts, which need not fit into memory together."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.stage() as folder:
            partial = folder / target.name
            with partial.open("wb") as file:
                file.writelines(parts)
            flush([partial])
            partial.replace(target)
        _flush_folder(target.parent)

    def compute_digest(self, name: str) -> str | None:
        """Returns the SHA-256 of a file; None if there is none."""
        path = f"{self.path}/{name}"
        if not os.path.lexists(path):  # faster than an exception, for folders of many files
            return None
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            return hashlib.file_digest(file, "sha256").hexdigest()

    def publish(self, staged: Path, name: str) -> None:
        """Moves a flushed file from the staging area to its name."""
        parent = name.rpartition("/")[0]
        if parent not in self._parents:
            (self.path / parent).mkdir(parents=True, exist_ok=True)
            self._parents.add(parent)
        os.replace(staged, f"{self.path}/{name}")  # noqa: PTH105 - as above

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Returns a new folder for unfinished files, beside their places."""
        folder = self.path / WORK / f"partial-{os.getpid()}-{os.urandom(4).hex()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Deletes the journal of an earlier data set, whose other files were deleted."""
        for name in self.list_names(WORK):
            path = self.path / WORK / name
            if path.is_dir():  # the locks of this run are files
                shutil.rmtree(path)

    def finish(self) -> None:
        """Deletes the state of the unfinished data set."""
        if (self.path / WORK).is_dir():
            shutil.rmtree(self.path / WORK)
            _flush_folder(self.path)

    def _delete_partial_files(self) -> None:
        for partial in (self.path / WORK).glob("partial-*"):
            shutil.rmtree(partial, ignore_errors=True)

    def _open_lock(self, name: str) -> IO[bytes]:
        return (self.path / WORK / name).open("ab")


class Staging:
    """Collects the files of a shard in the staging area. Implements `formats.NewFiles`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: list[WrittenFile] = []
        self.staged: dict[str, Path] = {}

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a new file; `name` is relative to the data set, with slashes."""
        path = self._folder / str(len(self.staged))
        # Python's buffer of 8 KiB would cost a tenth of the time of encoding small pictures.
        with path.open("xb", _BUFFER_BYTES) as file:
            yield file
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.staged[name] = path
        self._written.append(WrittenFile(name, path.stat().st_size, digest))

    def add(self, name: str, content: bytes) -> None:
        """Writes a small file at once, in a third of the time of `create`."""
        path = self._folder / str(len(self.staged))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            written = file.write(content)
        if written != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.staged[name] = path
        digest = hashlib.sha256(content).hexdigest()
        self._written.append(WrittenFile(name, len(content), digest))

    def describe(self) -> list[WrittenFile]:
        """Returns the name, size and digest of each file."""
        return self._written


class Journal:
    """The finished shards of an unfinished data set, in a file for each."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def read(self, shard: Shard) -> list[WrittenFile] | None:
        """Returns the files of a shard; None if it was not finished."""
        content = self._folder.read(name_entry(shard))
        return None if content is None else [WrittenFile(*entry) for entry in json.loads(content)]

    def count(self) -> int:
        """Returns the number of finished shards."""
        return len(self._folder.list_names(_ENTRIES))

    def write(self, shard: Shard, files: list[WrittenFile]) -> None:
        """Enters the files of a shard."""
        self._folder.put(name_entry(shard), json.dumps(files).encode())


def publish_shard(
    folder: Folder, shard: Shard, staging: Staging, *, repair: bool = False
) -> list[WrittenFile]:
    """Publishes a shard in three steps; see the docstring of the module.

    Args:
        folder: the place of the data set.
        shard: which shard.
        staging: its files.
        repair: replace files that differ from the journal.

    Raises:
        OtherPlan: a file that the data set did not write is in the way.
        DatasetError: the shard differs from the same shard of an earlier run.
    """
    journal = Journal(folder)
    entered, files = journal.read(shard), staging.describe()
    if entered is not None and _identify(entered) != _identify(files):
        raise DatasetError(
            f"{folder.place}: shard {shard.number} has other bytes than in an earlier run, although"
            " the plan is the same; the CPU or a library may be another one"
        )
    missing = []
    for file in files:
        digest = folder.compute_digest(file.name)
        if digest not in (None, file.sha256) and not (repair and entered is not None):
            raise make_foreign_file_error(folder, file.name)
        if digest != file.sha256:
            missing.append(file)
    flush(list(staging.staged.values()))
    if entered != files:
        journal.write(shard, files)
    for file in missing:
        folder.publish(staging.staged[file.name], file.name)
    return files


def _identify(files: list[WrittenFile]) -> dict[str, str]:
    """Returns the digest of each file by its name, without state of the unfinished data set."""
    return {file.name: file.sha256 for file in files if not file.name.startswith(f"{WORK}/")}


def is_of_system(name: str) -> bool:
    """Returns whether an operating system keeps a file or folder of this name anywhere."""
    return name in {"lost+found", ".DS_Store"} or name.startswith(".nfs")


def is_of_interest(name: str) -> bool:
    """Returns whether a file, relative to the data set, is neither hidden nor of a system."""
    return not name.startswith(".") and not is_of_system(name.rpartition("/")[2])


def make_foreign_file_error(folder: Folder, name: str) -> OtherPlan:
    """Returns the error for a file that the data set did not write."""
    return OtherPlan(
        f"{folder.place}/{name} is not the file that this data set has there. It is kept: move it "
        "away and run the same command again"
    )


def flush(paths: list[Path]) -> None:
    """Writes files to the disk, so that they survive a loss of power."""
    if len(paths) > _FLUSHED_SINGLY:
        os.sync()
        return
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def translate_os_error(error: OSError, place: str) -> DatasetError:
    """Returns the error of a data set for an error of the disk, or of the way to a store."""
    passes = isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or (
        error.errno in _PASSING
    )
    return (TemporaryFailure if passes else DatasetError)(explain_os_error(error, place))


def explain_os_error(error: OSError, place: str) -> str:
    """Returns the error of a data set for an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: the disk is full. Make room. {CONTINUE}"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{place} cannot be written: {error.strerror}"
    file_name = f" ({error.filename})" if error.filename else ""
    return f"{place}: {error.strerror or error}{file_name}. {CONTINUE}"


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_entry(shard: Shard) -> str:
    """Returns the file of the journal for a shard."""
    return f"{_ENTRIES}/{shard.number:08d}.json"
