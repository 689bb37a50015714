"""Tests of data sets in an object store: objects equal files on disk and can be resumed."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import BUCKET, s3_server

from imagemint.dataset.interrupts import Terminated, raise_on_sigterm
from imagemint.dataset.remote import RemoteFolder
from imagemint.dataset.scratch import delete_abandoned, open_scratch

# moto, botocore and aiohttp close their sockets late
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def read_objects(monkeypatch):
    """A function that reads the objects under a prefix of an S3 server."""
    with s3_server(monkeypatch.setenv) as read:
        yield read


@pytest.mark.parametrize("format_name", ["parquet", "imagefolder"])
def test_objects_equal_the_files_of_a_disk(make, contents, read_objects, tmp_path, format_name):
    """The objects are the files, and no other object remains."""
    assert make(f"s3://{BUCKET}/one/set", format=format_name) == 0
    assert make(tmp_path / "set", format=format_name) == 0
    assert read_objects("one/set/") == contents(tmp_path / "set")


def test_interrupted_upload_continues(make, contents, read_objects, tmp_path, monkeypatch):
    """A run that ends between two uploads continues without repeating finished shards."""
    published = []
    original = RemoteFolder.publish

    def fail(self, staged, name):
        if len(published) == 1:
            raise KeyboardInterrupt
        published.append(name)
        original(self, staged, name)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "publish", fail)
        assert make(f"s3://{BUCKET}/set") == 130
    assert any(name.startswith(".imagemint/done") for name in read_objects("set/"))
    again = []

    def count(self, staged, name):
        again.append(name)
        original(self, staged, name)

    monkeypatch.setattr(RemoteFolder, "publish", count)
    assert make(f"s3://{BUCKET}/set") == 0
    assert len(published) == 1
    assert len(again) == 2
    assert make(tmp_path / "set") == 0
    assert read_objects("set/") == contents(tmp_path / "set")


@pytest.mark.parametrize(
    ("method", "name"), [("put_file", ""), ("pipe_file", "/done/"), ("pipe_file", "imagemint.json")]
)
def test_half_a_file_is_uploaded_again(make, contents, tmp_path, monkeypatch, method, name):  # noqa: PLR0917 - fixtures
    """In a store that shows unfinished files, an upload that dies leaves none with a final name."""
    kind = fsspec.get_filesystem_class("local")
    original = getattr(kind, method)
    failed = []

    def fail(self, first, second, **options):
        path = second if method == "put_file" else first
        if not failed and name in path:
            failed.append(path)
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        return original(self, first, second, **options)

    out = f"local://{tmp_path}/set"
    with monkeypatch.context() as patch:
        patch.setattr(kind, method, fail)
        assert make(out) == 130
    assert failed
    assert make(out) == 0
    assert make(tmp_path / "whole") == 0
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_folders_of_killed_processes_are_deleted(make, tmp_path, monkeypatch):
    """A run deletes the temporary folders of processes that have ended, and of no other one."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    program = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from imagemint.dataset.scratch import open_scratch\n"
        "with open_scratch() as folder:\n"
        "    (folder / 'shard').write_text('half')\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    killed, living = [Path(process.stdout.readline().strip()) for process in processes]
    processes[0].kill()
    processes[0].communicate()
    assert killed.exists()
    with open_scratch() as own:
        assert make(f"local://{tmp_path}/set") == 0
        assert set(scratch.iterdir()) == {living, own}
    processes[1].communicate()
    assert not list(scratch.iterdir())


@pytest.fixture
def abandoned(tmp_path, monkeypatch):
    """A temporary folder of a process that was killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    folder = tmp_path / "scratch/imagemint-set-1"
    (folder / "inner").mkdir(parents=True)
    return folder


def test_signal_ends_the_deletion_of_folders(abandoned, monkeypatch):
    """SIGTERM ends a run even if it arrives just after a descriptor is closed, and is closed again.

    The second closing fails, and its error replaces the interruption.
    """
    close = os.close

    def interrupt(handle):
        monkeypatch.setattr(os, "close", close)
        close(handle)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "close", interrupt)
    with pytest.raises(Terminated), raise_on_sigterm():
        delete_abandoned(pytest.fail)
    assert abandoned.exists()


def test_folder_that_cannot_be_deleted_is_reported(make, abandoned, tmp_path, monkeypatch, capsys):
    """The run goes on, and one line on stderr says why the folder stays."""
    rmdir = os.rmdir

    def refuse(path, **options):
        if path == "inner":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", refuse)
    assert make(tmp_path / "set") == 0
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "delete" in each]
    assert line.startswith(f"imagemint dataset: cannot delete {abandoned}, ")
    assert "Input/output error" in line  # Python 3.13 names the file after it


def test_damaged_file_of_a_store_is_replaced(make, contents, tmp_path):
    """--repair replaces a file in a store that does not replace files by renaming."""
    out = f"memory://{tmp_path.name}/set"
    assert make(out) == 0
    files = fsspec.filesystem("memory")
    path = f"/{tmp_path.name}/set/train-000000000-000000019.npz"
    content = files.cat_file(path)
    files.pipe_file(path, b"damaged")
    assert make(out, repair=True) == 0
    assert files.cat_file(path) == content


def test_complete_data_set_is_not_downloaded(make, read_objects, tmp_path, monkeypatch, capsys):
    """The same command lists the files of a store. It fails if one is missing, until a repair."""
    out = f"s3://{BUCKET}/set"
    assert make(out) == 0
    before = read_objects("set/")
    asked = []
    for method in ("read", "read_lines"):
        original = getattr(RemoteFolder, method)

        def record(self, name, original=original):
            asked.append(name)
            return original(self, name)

        monkeypatch.setattr(RemoteFolder, method, record)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "compute_digest", None)
        for dry_run in (None, True):
            assert make(out, dry_run=dry_run) == 0
            said = capsys.readouterr().out
            assert f"{out} is complete" in said
            assert f"imagemint dataset --verify {out}" in said
        assert set(asked) == {"imagemint.json", "SHA256SUMS"}
        last = "train-000000040-000000049.npz"
        boto3.client("s3").delete_object(Bucket=BUCKET, Key=f"set/{last}")
        assert make(out) == 1
        assert (
            f"{out}/{last} is missing since the data set was completed" in capsys.readouterr().err
        )
    assert make(out, repair=True) == 0
    assert read_objects("set/") == before


def test_resuming_downloads_no_shard(  # noqa: PLR0917 - fixtures
    make, interrupt_before_sums, contents, read_objects, tmp_path, monkeypatch
):
    """Finished shards are found by their sizes in one listing, and missing ones need no request."""
    out = f"s3://{BUCKET}/set"
    interrupt_before_sums(out)
    s3 = boto3.client("s3")
    last = "set/train-000000040-000000049.npz"
    s3.delete_object(Bucket=BUCKET, Key=last)
    s3.delete_object(Bucket=BUCKET, Key="set/.imagemint/done/00000002.json")
    asked = []
    for name in ("compute_digest", "read"):
        original = getattr(RemoteFolder, name)

        def record(self, name, original=original):
            asked.append(name)
            return original(self, name)

        monkeypatch.setattr(RemoteFolder, name, record)
    assert make(out, dry_run=True) == 0
    finished = [f".imagemint/done/0000000{number}.json" for number in (0, 1)]
    assert [each for each in asked if each not in {"imagemint.json", "SHA256SUMS"}] == finished
    s3.put_object(Bucket=BUCKET, Key="set/train-000000000-000000019.npz", Body=b"mine")
    assert make(out) == 1
    s3.delete_object(Bucket=BUCKET, Key="set/train-000000000-000000019.npz")
    assert make(out) == 0
    assert make(tmp_path / "set") == 0
    assert read_objects("set/") == contents(tmp_path / "set")


def test_foreign_object_is_kept(refusal, read_objects):
    """A prefix with other objects is not used for a data set."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key="set/notes.txt", Body=b"mine")
    assert "notes.txt" in refusal(f"s3://{BUCKET}/set")
    assert read_objects("set/") == {"notes.txt": b"mine"}


def test_missing_bucket_is_an_error(refusal, read_objects):
    """The error has the address."""
    for dry_run in (None, True):
        said = refusal("s3://nowhere/set", dry_run=dry_run)
        assert "s3://nowhere/set: there is no bucket nowhere" in said


def test_unreachable_store_is_an_error(refusal, read_objects, monkeypatch):
    """The libraries of stores have exceptions of their own, which end in one line, too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    said = refusal("s3://bucket/set", status=os.EX_TEMPFAIL)
    assert "s3://bucket/set: EndpointConnectionError: Could not connect" in said
    assert "Finished shards are kept. Run the same command again to continue" in said


class AuthenticationException(Exception):  # noqa: N818 - as paramiko, the library of SFTP, has it
    """Raised as soon as the store is opened."""


class LockedStore(MemoryFileSystem):
    """A store that refuses its user when it is opened, as SFTP does."""

    protocol = "locked"

    def __init__(self, **_):
        raise AuthenticationException("no key fits")


def test_refusing_store_is_an_error(refusal):
    """A store that connects when it is opened is no exception."""
    fsspec.register_implementation("locked", LockedStore, clobber=True)
    said = refusal("locked://host/set")
    assert "locked://host/set: AuthenticationException: no key fits" in said


@pytest.mark.parametrize("place", ["nosuch://bucket/set", "S3://bucket/set"])
def test_unknown_address_is_an_error(refusal, place):
    """A misspelt protocol is no folder on this machine."""
    assert f"{place}: Protocol not known" in refusal(place)
