"""Tests of imagemint.exporter.publish: versions appear atomically and are never overwritten."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagemint.exporter.errors import ExportError
from imagemint.exporter.publish import STAGING_PREFIX, choose_version, stage_version

KILLED = """
import os, pathlib, signal, sys
from imagemint.exporter import publish
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "renaming":
    pathlib.Path.rename = kill
with publish.stage_version(pathlib.Path(sys.argv[1]), "digits", 1) as directory:
    (directory / "model.onnx").write_bytes(b"weights")
    if sys.argv[2] == "writing":
        kill()
"""


def _list_visible_files(repository):
    """Returns the files that a server would read."""
    return [p for p in repository.glob("[!.]*/**/*") if p.is_file()]


def test_version_appears_atomically(tmp_path):
    """The staged files appear together with their checksums, and nothing else does."""
    with stage_version(tmp_path / "models", "digits", 1) as directory:
        (directory / "model.onnx").write_bytes(b"weights")
        (directory / "card.md").write_text("card")
        assert not _list_visible_files(tmp_path / "models")
    final = tmp_path / "models" / "digits" / "1"
    assert sorted(p.name for p in final.iterdir()) == ["SHA256SUMS", "card.md", "model.onnx"]
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["digits"]
    check = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=final, check=False)  # noqa: S607 - whichever is on the PATH
    assert check.returncode == 0


def test_version_is_flushed_to_disk(tmp_path, monkeypatch):
    """Files and their directory are flushed before the rename, and the folders above after it."""
    flushed = []

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path.parent)
        flushed.append((path.name, any(part.startswith(STAGING_PREFIX) for part in path.parts)))

    monkeypatch.setattr(os, "fsync", fsync)
    with stage_version(tmp_path, "digits", 1) as directory:
        (directory / "model.onnx").write_bytes(b"weights")
        (directory / "card.md").write_text("card")
    assert {*flushed[:3]} == {("model.onnx", True), ("card.md", True), ("SHA256SUMS", True)}
    assert flushed[3:] == [("1", True), ("digits", False), (tmp_path.name, False)]


def test_failed_staging_leaves_nothing(tmp_path):
    """An exception during staging leaves the repository unchanged."""

    def fail():
        with stage_version(tmp_path, "digits", 1) as directory:
            (directory / "model.onnx").write_bytes(b"weights")
            raise ExportError("over the tolerance")

    with pytest.raises(ExportError, match="over the tolerance"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_directory_is_an_error(tmp_path):
    """A file where the repository or the model belongs is named before anything is written."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "digits").write_text("")
    for repository in (tmp_path / "models", tmp_path / "models" / "digits"):
        with pytest.raises(ExportError, match="digits is a file, not a directory"):
            choose_version(repository, "digits", None)


def test_repository_that_cannot_be_made_is_an_error(tmp_path):
    """The error names the repository, the reason, and what to do."""
    (tmp_path / "file").write_text("")
    said = "file/models cannot be made or written to: Not a directory. Choose another one"
    staged = stage_version(tmp_path / "file" / "models", "digits", 1)
    with pytest.raises(ExportError, match=said):
        staged.__enter__()


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_killed_export_leaves_no_version(tmp_path, moment):
    """A process that is killed while it writes or renames leaves a hidden directory only."""
    process = subprocess.run([sys.executable, "-c", KILLED, tmp_path, moment], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not _list_visible_files(tmp_path)
    assert [p.name.startswith(STAGING_PREFIX) for p in tmp_path.glob(".*")] == [True]
    assert choose_version(tmp_path, "digits", None) == 1
    with stage_version(tmp_path, "digits", 1) as directory:
        (directory / "model.onnx").write_bytes(b"weights")
    assert (tmp_path / "digits" / "1" / "model.onnx").read_bytes() == b"weights"


def test_versions_are_incremented(tmp_path):
    """The next version is one more than the largest one, whatever other files exist."""
    assert choose_version(tmp_path, "digits", None) == 1
    for name in ("1", "9", "10", "notes", ".export-1"):
        (tmp_path / "digits" / name).mkdir(parents=True)
    assert choose_version(tmp_path, "digits", None) == 11
    assert choose_version(tmp_path, "digits", 12) == 12
    assert choose_version(tmp_path, "digits", 2) == 2


def test_existing_version_is_refused(tmp_path):
    """A version that exists, even if it is empty, is refused."""
    (tmp_path / "digits" / "3").mkdir(parents=True)
    with pytest.raises(ExportError, match="3 exists; a version is never overwritten"):
        choose_version(tmp_path, "digits", 3)
    with pytest.raises(ExportError, match="1 or more"):
        choose_version(tmp_path, "digits", 0)


def test_concurrent_export_of_a_version_fails(tmp_path):
    """A version that another process has written meanwhile stays, and the export fails."""

    def lose():
        with stage_version(tmp_path, "digits", 1) as directory:
            (directory / "model.onnx").write_bytes(b"ours")
            theirs = tmp_path / "digits" / "1"
            theirs.mkdir(parents=True)
            (theirs / "model.onnx").write_bytes(b"theirs")

    with pytest.raises(ExportError, match="another process"):
        lose()
    assert (tmp_path / "digits" / "1" / "model.onnx").read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]
