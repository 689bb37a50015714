"""Tests of folders on a disk: files are complete or absent, and one run writes at a time."""

import fcntl
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagemint.dataset import folder as module
from imagemint.dataset.errors import DatasetError
from imagemint.dataset.folder import Journal, LocalFolder, Staging, publish_shard
from imagemint.dataset.plan import Shard

SHARD = Shard(0, 0, 2)


@pytest.fixture
def folder(tmp_path):
    """A folder that this run holds."""
    made = LocalFolder(tmp_path / "set")
    with made.lock():
        yield made


@contextmanager
def full_disk():
    """Makes the system write no file beyond 10 bytes, so that a write ends in the middle.

    The limit must end before pytest reports the test, because its output may be a file, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def list_partial_files(folder):
    """Returns the folders of unfinished files."""
    return [name for name in folder.list_names(".imagemint") if name.startswith("partial-")]


def test_second_run_is_refused(folder):
    """Two runs for one folder would publish and delete the files of each other."""
    with (
        pytest.raises(
            DatasetError, match=f"another run of imagemint dataset writes to {folder.place}"
        ),
        LocalFolder(Path(folder.place)).lock(),
    ):
        pass


def test_next_run_waits_for_workers(tmp_path, monkeypatch):
    """Workers of a killed run may still publish a shard."""
    first = LocalFolder(tmp_path)
    with first.lock():
        pass
    worker, original, order = first.hold_as_worker(), fcntl.flock, []
    worker.__enter__()

    def flock(file, operation):
        if operation == fcntl.LOCK_EX:  # without LOCK_NB: this waits
            with pytest.raises(BlockingIOError):
                original(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            order.append("waits")
            worker.__exit__(None, None, None)
        original(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with LocalFolder(tmp_path).lock():
        order.append("runs")
    assert order == ["waits", "runs"]


def test_run_deletes_partial_files_of_killed_ones(folder):
    """Each killed run would leave those of its shards, until the disk is full."""
    place = Path(folder.place)
    (place / ".imagemint/partial-1").mkdir()
    other = LocalFolder(place.parent / "other")
    (place.parent / "other/.imagemint/partial-1").mkdir(parents=True)
    with other.lock():
        assert not list_partial_files(other)
        (place.parent / "other/.imagemint/partial-2").mkdir()  # of a worker that is killed
    assert not list_partial_files(other)
    assert list_partial_files(folder)  # of no other folder


def test_full_disk_keeps_the_earlier_file(folder):
    """A file that cannot be written whole does not replace the one before."""
    folder.put("imagemint.json", b"earlier")
    with pytest.raises(OSError, match="too large"), full_disk():
        folder.put("imagemint.json", b"x" * 100)
    assert folder.read("imagemint.json") == b"earlier"
    assert not list_partial_files(folder)


def test_small_file_is_written_whole_or_not(folder):
    """The system may write a part of a picture without an error."""
    with folder.stage() as place:
        staging = Staging(place)
        with pytest.raises(OSError, match="No space left"), full_disk():
            staging.add("train/0.png", b"x" * 11)
        assert not staging.describe()


def test_shard_is_flushed_entered_and_published(folder, monkeypatch):
    """A file gets its name once it is on the disk and in the journal, in case the power fails."""
    steps = []
    for owner, name in ((module, "flush"), (Journal, "write"), (LocalFolder, "publish")):
        original = getattr(owner, name)

        def record(*arguments, name=name, original=original):
            steps.append(name)
            original(*arguments)

        monkeypatch.setattr(owner, name, record)
    with folder.stage() as place:
        staging = Staging(place)
        staging.add("train/0.png", b"0")
        staging.add("train/1.png", b"1")
        publish_shard(folder, SHARD, staging)
    assert steps == ["flush", "write", "flush", "publish", "publish"]  # the entry is flushed, too
    assert [file.name for file in Journal(folder).read(SHARD)] == ["train/0.png", "train/1.png"]
