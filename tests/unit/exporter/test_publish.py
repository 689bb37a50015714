"""Tests of imagemint.exporter.publish: whole or not at all, never over another."""

import signal
import subprocess
import sys

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


def _visible(repository):
    """The files of whatever a server would look at."""
    return [p for p in repository.glob("[!.]*/**/*") if p.is_file()]


def test_bundle_appears_whole(tmp_path):
    """What was staged is there afterwards, with its checksums, and nothing else."""
    with stage_version(tmp_path / "models", "digits", 1) as directory:
        (directory / "model.onnx").write_bytes(b"weights")
        (directory / "card.md").write_text("card")
        assert not _visible(tmp_path / "models")
    final = tmp_path / "models" / "digits" / "1"
    assert sorted(p.name for p in final.iterdir()) == ["SHA256SUMS", "card.md", "model.onnx"]
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["digits"]
    check = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=final, check=False)  # noqa: S607
    assert check.returncode == 0


def test_failed_staging_leaves_nothing(tmp_path):
    """An exception while staging leaves the repository as it was."""

    def fail():
        with stage_version(tmp_path, "digits", 1) as directory:
            (directory / "model.onnx").write_bytes(b"weights")
            raise ExportError("over the tolerance")

    with pytest.raises(ExportError, match="over the tolerance"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_killed_export_leaves_nothing_to_load(tmp_path, moment):
    """A process killed while writing, or just before renaming, leaves only a hidden directory."""
    process = subprocess.run([sys.executable, "-c", KILLED, tmp_path, moment], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not _visible(tmp_path)
    assert [p.name.startswith(STAGING_PREFIX) for p in tmp_path.glob(".*")] == [True]
    assert choose_version(tmp_path, "digits", None) == 1
    with stage_version(tmp_path, "digits", 1) as directory:
        (directory / "model.onnx").write_bytes(b"weights")
    assert (tmp_path / "digits" / "1" / "model.onnx").read_bytes() == b"weights"


def test_versions_count_up(tmp_path):
    """The next version is one more than the largest, whatever else lies there."""
    assert choose_version(tmp_path, "digits", None) == 1
    for name in ("1", "9", "10", "notes", ".export-1"):
        (tmp_path / "digits" / name).mkdir(parents=True)
    assert choose_version(tmp_path, "digits", None) == 11
    assert choose_version(tmp_path, "digits", 12) == 12
    assert choose_version(tmp_path, "digits", 2) == 2


def test_existing_version_is_refused(tmp_path):
    """A version that exists, even empty, is not written to."""
    (tmp_path / "digits" / "3").mkdir(parents=True)
    with pytest.raises(ExportError, match="3 exists; a version is never overwritten"):
        choose_version(tmp_path, "digits", 3)
    with pytest.raises(ExportError, match="1 or more"):
        choose_version(tmp_path, "digits", 0)


def test_race_for_a_version_has_one_winner(tmp_path):
    """A version that another process writes meanwhile stays, and the export is an error."""

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
