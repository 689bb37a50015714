"""Tests that invalid requests have clear errors, and that no foreign file is replaced."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys

import pytest
from tiny_bundles import write_bundle
from tiny_translators import write_translator

from imagemint.client.cli import main
from imagemint.dataset import workers
from imagemint.dataset.errors import TemporaryFailure
from imagemint.dataset.folder import explain_os_error, translate_os_error
from imagemint.dataset.plan import Shard
from imagemint.dataset.shards import Task

FIRST = "train-000000000-000000019.npz"


def test_more_tries_hide_no_other_change(make, refusal, contents, tmp_path):
    """More tries continue a data set only if nothing else is another one."""
    settings = {"model": "judged", "min_class_confidence": 0.0, "max_tries": 2}
    assert make(tmp_path, **settings) == 0
    before = contents(tmp_path)
    tries = {"max_tries": 3}
    for change, said in (
        ({"seed": 8}, "seed 7, not 8; max_tries 2, not 3;"),
        ({"min_class_confidence": 0.1}, ": min_class_confidence 0.0, not 0.1; max_tries 2, not 3;"),
    ):
        refused = refusal(tmp_path, **settings | tries | change)
        assert "holds another data set" in refused
        assert said in refused
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 8}, "seed 7, not 8"),
        ({"count": 60}, "count 50, not 60"),
        ({"classes": "3,7"}, "classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), not (3, 7)"),
        ({"format": "parquet"}, "format npz, not parquet"),
        ({"variant": "int8"}, "variant fp32, not int8"),
        ({"model": "plain", "classes": None}, "model tiny, not plain"),
    ],
)
def test_other_plan_is_refused(make, refusal, contents, tmp_path, settings, said):  # noqa: PLR0917 - fixtures
    """A folder with another plan keeps its data set, and the error names the difference."""
    assert make(tmp_path) == 0
    before = contents(tmp_path)
    assert said in refusal(tmp_path, **settings)
    assert contents(tmp_path) == before


def test_changed_bundle_is_refused(make, refusal, tmp_path):
    """A version with other bytes gives other pixels, so it does not continue the data set."""
    write_bundle(tmp_path / "one")
    write_bundle(tmp_path / "two", weights_seed=1)
    assert make(tmp_path / "set", repository=tmp_path / "one") == 0
    said = refusal(tmp_path / "set", repository=tmp_path / "two")
    assert "bundle_sha256" in said


@pytest.mark.parametrize(
    ("format_name", "place", "name"),
    [
        ("imagefolder", "PIL.__version__", "pillow"),
        ("webdataset", "imagemint.dataset.plan._find_zlib_version", "zlib"),
        ("parquet", "pyarrow.__version__", "pyarrow"),
        ("npz", "numpy.__version__", "numpy"),
    ],
)
def test_other_software_is_refused(make, refusal, tmp_path, monkeypatch, format_name, place, name):  # noqa: PLR0917 - fixtures
    """Another release of an encoder writes other bytes, so it is refused by name."""
    assert make(tmp_path / "set", format=format_name) == 0
    monkeypatch.setattr(place, (lambda: "1.0") if name == "zlib" else "1.0")
    said = refusal(tmp_path / "set", format=format_name)
    assert f"{name} 1.0" in said.partition("; here is ")[2]


def test_other_engine_is_refused(make, refusal, models, tmp_path, monkeypatch, capsys):  # noqa: PLR0917 - fixtures
    """Another release of ONNX Runtime can give other pixels; plans that do not name it continue."""
    out, path = tmp_path / "set", tmp_path / "set/imagemint.json"
    assert make(out) == 0
    (out / "SHA256SUMS").rename(tmp_path / "SHA256SUMS")
    monkeypatch.setattr("imagemint.dataset.local.RUNTIME_VERSION", "1.0")
    assert "here is numpy " in (said := refusal(out))
    assert "onnxruntime 1.0" in said
    (tmp_path / "SHA256SUMS").rename(out / "SHA256SUMS")
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={out}"]
    assert main(verify) == 1
    assert "onnxruntime 1.0" in capsys.readouterr().err
    plan = json.loads(path.read_text())
    assert plan["software"].keys() == {"numpy", "onnxruntime", "imagemint"}
    plan["software"] = {"numpy": plan["software"]["numpy"]}  # as in an older release
    new = json.dumps(plan, indent=2).encode() + b"\n"
    digests = [hashlib.sha256(each).hexdigest() for each in (path.read_bytes(), new)]
    path.write_bytes(new)
    sums = out / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(*digests))
    assert make(out) == 0
    assert main(verify) == 0
    assert path.read_bytes() == new


def test_other_release_of_imagemint_continues(make, tmp_path, monkeypatch):
    """Serial numbers give the same pixels in every release. The plan keeps the first one."""
    assert make(tmp_path / "set") == 0
    before = (tmp_path / "set/imagemint.json").read_bytes()
    monkeypatch.setattr("imagemint.dataset.local.metadata.version", lambda _: "99.0")
    assert make(tmp_path / "set") == 0
    assert (tmp_path / "set/imagemint.json").read_bytes() == before


def test_translator_is_refused(refusal, tmp_path):
    """A model that translates pictures generates none."""
    write_translator(tmp_path / "models", "sketch", size=(6, 8))
    said = refusal(tmp_path / "set", repository=tmp_path / "models", model="sketch", classes=None)
    assert "model sketch translates pictures" in said


def test_folder_with_files_is_refused(refusal, contents, tmp_path):
    """A folder with other files is not used for a data set."""
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in refusal(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_files_of_the_system_are_no_obstacle(make, models, tmp_path):
    """A mount point has a folder of its own, and file managers and NFS keep files everywhere."""
    (tmp_path / "lost+found").mkdir()
    for name in (".DS_Store", ".nfs0000000001"):
        (tmp_path / name).write_text("")
    assert make(tmp_path, format="imagefolder") == 0
    (tmp_path / "train/3/.DS_Store").write_text("")
    assert main(["dataset", "--local", f"--repository={models}", f"--verify={tmp_path}"]) == 0


@pytest.mark.parametrize("prefix", ["", "local://"])
def test_emptied_folder_takes_another_plan(make, interrupt_before_sums, contents, tmp_path, prefix):
    """A user who deletes all visible files of an unfinished data set leaves its journal there."""
    out = tmp_path / "set"
    interrupt_before_sums(f"{prefix}{out}")
    for path in out.iterdir():
        if path.is_file():
            path.unlink()
    assert make(f"{prefix}{out}", seed=8) == 0
    assert make(tmp_path / "whole", seed=8) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_foreign_shard_is_kept(make, refusal, tmp_path):
    """A file with the name of a shard is neither counted nor replaced."""
    refusal(tmp_path / "set", truncation=2.0)  # leaves nothing behind
    (tmp_path / "set").mkdir(exist_ok=True)
    assert make(tmp_path / "whole") == 0
    (tmp_path / "set/imagemint.json").write_bytes((tmp_path / "whole/imagemint.json").read_bytes())
    (tmp_path / "set" / FIRST).write_bytes(b"mine")
    assert FIRST in refusal(tmp_path / "set")
    assert (tmp_path / "set" / FIRST).read_bytes() == b"mine"
    (tmp_path / "set" / FIRST).unlink()
    assert make(tmp_path / "set") == 0


def test_foreign_card_is_kept(make, refusal, tmp_path):
    """An existing README is not replaced."""
    assert make(tmp_path / "whole") == 0
    (tmp_path / "set").mkdir()
    (tmp_path / "set/imagemint.json").write_bytes((tmp_path / "whole/imagemint.json").read_bytes())
    (tmp_path / "set/README.md").write_text("mine")
    assert "README.md" in refusal(tmp_path / "set")
    assert (tmp_path / "set/README.md").read_text() == "mine"


def test_changed_shard_is_detected(make, refusal, tmp_path):
    """A complete data set with a damaged shard is an error."""
    assert make(tmp_path) == 0
    path = tmp_path / FIRST
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert f"{FIRST} has changed" in refusal(tmp_path)


def test_file_as_output_is_refused(refusal, tmp_path):
    """If --out names a file, the command fails, and the file is kept."""
    (tmp_path / "set").write_text("mine")
    assert "set" in refusal(tmp_path / "set")
    assert (tmp_path / "set").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_refused(refusal, tmp_path):
    """A folder without write permission is a clear error."""
    tmp_path.chmod(0o500)
    assert "cannot be written: Permission denied" in refusal(tmp_path / "set")


def test_full_disk_keeps_finished_shards(arguments, make, contents, tmp_path):
    """A failed write ends the run, and the next run continues."""
    out = tmp_path / "set"
    program = (
        "import resource, sys; from imagemint.client.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY)); "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = arguments(out=out, count=200, shard_size=190)
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 6000
    assert done.returncode == 1
    assert "Run the same command again to continue" in done.stderr
    assert not (out / "SHA256SUMS").exists()
    assert not list(out.glob("*.npz"))
    assert make(out, count=200, shard_size=190) == 0
    assert make(tmp_path / "whole", count=200, shard_size=190) == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        *[(code, True) for code in (errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ETIMEDOUT)],
        (errno.ENOSPC, False),
    ],
)
def test_errors_of_the_network_pass(code, passes):
    """Only an error of the way to a store is a temporary failure."""
    found = translate_os_error(OSError(code, os.strerror(code)), "set")
    assert isinstance(found, TemporaryFailure) == passes


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full. Make room. Finished shards are kept."),
        (errno.EROFS, "cannot be written: Read-only file system"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_of_the_disk_are_explained(code, said):
    """Each error of the operating system says what it means for the data set."""
    assert said in explain_os_error(OSError(code, os.strerror(code)), "set")


def test_worker_that_cannot_open_the_place_says_why(monkeypatch):
    """Its first shard fails with the reason, so that the command can tell whether it may pass."""
    task = Task(plan=None, spec=None, place="sftp://host/digits")
    monkeypatch.setattr(workers._Worker, "task", task, raising=False)
    monkeypatch.setattr(workers._Worker, "failure", ConnectionRefusedError(111, "refused"))
    with pytest.raises(TemporaryFailure, match="sftp://host/digits: refused"):
        workers._work(Shard(0, 0, 1))


def test_classes_of_an_unconditional_model_are_refused(refusal, tmp_path):
    """A model without classes or captions refuses them."""
    assert "has no classes" in refusal(tmp_path / "set", model="plain")
    assert "has no captions" in refusal(tmp_path / "set", captions="examples")


def test_unknown_model_and_version_are_refused(refusal, tmp_path):
    """The error lists what exists."""
    assert "there is: bounded, judged, plain, styled, tiny, told" in refusal(
        tmp_path / "set", model="tino"
    )
    assert "has no version 9; there is: 1" in refusal(tmp_path / "set", version=9)
    assert not (tmp_path / "set").exists()


def test_unsupported_truncation_is_refused(refusal, tmp_path):
    """Truncation is checked before anything is written."""
    assert "takes no truncation" in refusal(tmp_path / "set", truncation=0.5)
    assert "takes 0.0 to 1.0" in refusal(tmp_path / "set", model="styled", truncation=1.5)
