"""Tests that an interrupted data set resumes to the same bytes."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagemint.dataset.folder import LocalFolder

KILLER = Path(__file__).parents[2] / "dataset_killer.py"
SCORED = {"model": "judged", "scores": True}
SETS = [
    ("webdataset", {}),
    ("parquet", {}),
    ("imagefolder", {}),
    ("imagefolder", SCORED),  # a file is joined at the end
    ("npz", {}),
]


def run_killer(folder, steps, arguments):
    """Makes a data set with kills before these steps and returns the steps of the last process."""
    done = subprocess.run(
        [sys.executable, KILLER, folder, ",".join(map(str, steps)), *arguments, "--quiet"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("format_name", "settings"), SETS)
def test_kills_change_no_byte(arguments, contents, tmp_path, format_name, settings):
    """A run that is killed at five random steps and then completed has the same bytes."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    total = run_killer(whole, [], arguments(out=whole, format=format_name, **settings))
    drawn = random.Random(f"{format_name} {settings}")  # noqa: S311 - no secret
    steps = [drawn.randrange(1, total + 1) for _ in range(5)]
    run_killer(killed, steps, arguments(out=killed, format=format_name, **settings))
    assert contents(killed) == contents(whole)


def test_killed_run_ends_its_workers_and_frees_the_folder(arguments, make, contents, tmp_path):
    """After SIGKILL of several processes, the next run waits for them and completes."""
    out = tmp_path / "killed"
    program = "import sys; from imagemint.client.cli import main; sys.exit(main(sys.argv[1:]))"
    settings = {"count": 3_000, "shard_size": 100, "format": "webdataset"}
    command = arguments(out=out, **settings | {"workers": 2})
    started = subprocess.Popen([sys.executable, "-c", program, *command])
    done = out / ".imagemint/done"
    wait_until(lambda: done.is_dir() and any(done.iterdir()), started)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (out / "SHA256SUMS").exists()
    assert make(out, **settings | {"workers": 2}) == 0
    assert make(tmp_path / "whole", **settings) == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_says_how_to_continue(arguments, make, contents, tmp_path, number, workers):  # noqa: PLR0917 - fixtures
    """Ctrl-C and SIGTERM, sent to all processes, leave whole shards and nothing else."""
    out = tmp_path / "set"
    settings = {"count": 3_000, "shard_size": 100, "format": "webdataset", "workers": workers}
    started = start(arguments(out=out, **settings))
    done = out / ".imagemint/done"
    wait_until(lambda: done.is_dir() and any(done.iterdir()), started)
    os.killpg(started.pid, number)
    _, said = started.communicate()
    assert started.returncode == 128 + number, said
    finished = len(list(done.iterdir()))
    assert said == (
        f"imagemint dataset: interrupted. {finished} of 30 shards are finished and kept. Run the "
        "same command again to continue\n"
    )
    assert not list((out / ".imagemint").glob("partial-*"))
    assert make(out, **settings) == 0
    assert make(tmp_path / "whole", **settings) == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_cleanup_is_an_interruption(make, tmp_path, monkeypatch, capsys, number):
    """A signal while a folder of partial files is closed, which makes its deletion fail."""
    done, close, left = tmp_path / "set/.imagemint/done", os.close, [number]

    def close_and_signal(descriptor):
        is_meant = left and "/partial-" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        close(descriptor)
        if is_meant and any(done.glob("*")):
            signal.raise_signal(left.pop())

    monkeypatch.setattr(os, "close", close_and_signal)
    assert make(tmp_path / "set", format="webdataset") == 128 + number
    assert capsys.readouterr().err == (
        "imagemint dataset: interrupted. 1 of 3 shards are finished and kept. Run the same command "
        "again to continue\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_start_of_workers_is_one_line(arguments, tmp_path, number):
    """Workers that are still importing print no traceback."""
    out = tmp_path / "set"
    started = start(arguments(out=out, workers=2, format="webdataset"))
    wait_until(lambda: len(find_children(started.pid)) >= 3, started)  # with the resource tracker
    workers = [child for child in find_children(started.pid) if has_blocked(child, signal.SIGINT)]
    os.killpg(started.pid, number)
    _, said = started.communicate()
    assert len(workers) >= 2
    assert started.returncode == 128 + number, said
    assert said.startswith("imagemint dataset: interrupted. ")
    assert said.count("\n") == 1


def wait_until(condition, started):
    """Polls until a condition holds. A process that does nothing else would take its core."""
    while not condition():
        assert started.poll() is None
        time.sleep(0.001)


def start(arguments):
    """Starts the command as the leader of its own group of processes."""
    program = "import sys; from imagemint.command import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def has_blocked(process, number):
    """Returns whether a signal waits until the process wants it."""
    status = Path(f"/proc/{process}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def find_children(parent):
    """Returns the ids of the processes that a process has started."""
    found = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended
            found += path.read_text().split()
    return found


def test_repeated_run_changes_nothing(make, contents, tmp_path, capsys):
    """The same command on a complete data set only checks it."""
    assert make(tmp_path / "set") == 0
    before = contents(tmp_path / "set")
    assert make(tmp_path / "set") == 0
    assert "is complete" in capsys.readouterr().out
    assert contents(tmp_path / "set") == before


def test_run_that_waited_for_another_one_ends(make, contents, tmp_path, monkeypatch, capsys):
    """A run that gets the lock just after another one has completed the data set is done."""
    original = LocalFolder.lock

    def lock(self):
        monkeypatch.setattr(LocalFolder, "lock", original)
        assert make(tmp_path / "set") == 0
        return original(self)

    monkeypatch.setattr(LocalFolder, "lock", lock)
    assert make(tmp_path / "set") == 0
    assert "is complete" in capsys.readouterr().out
    assert make(tmp_path / "whole") == 0
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert not (tmp_path / "set/.imagemint").exists()


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({"format": "npz"}, {"quality": 50, "image_format": "jpeg"}),
        ({"format": "webdataset"}, {"quality": 50}),
        ({"format": "imagefolder"}, {"shard_size": 7}),
    ],
)
def test_options_without_effect_continue_a_data_set(make, contents, tmp_path, settings, other):
    """Options that change no byte are those of the plan, also of an older release."""
    out, path = tmp_path / "set", tmp_path / "set/imagemint.json"
    assert make(out, **settings) == 0
    before = contents(out)
    assert make(out, **settings | other) == 0
    assert contents(out) == before
    plan = json.loads(path.read_text())
    assert plan["quality"] is None
    plan["quality"] = 90
    for each in out.iterdir():
        if each.is_file():
            each.unlink()
    path.write_text(old := json.dumps(plan, indent=2) + "\n")
    assert make(out, repair=True, **settings | other) == 0
    assert path.read_text() == old


def test_quality_of_jpeg_is_another_data_set(make, refusal, tmp_path):
    """The quality counts where it determines bytes."""
    settings = {"format": "webdataset", "image_format": "jpeg"}
    assert make(tmp_path, quality=80, **settings) == 0
    assert "quality 80, not 90" in refusal(tmp_path, **settings)


def test_missing_settings_come_from_the_plan(make, contents, tmp_path, monkeypatch):
    """Without --seed, a second run uses the seed of the first."""
    out = tmp_path / "set"
    assert make(out, seed=None) == 0
    assert make(tmp_path / "other", seed=None) == 0
    assert contents(out) != contents(tmp_path / "other")
    before = contents(out)
    assert make(out, seed=None) == 0
    assert contents(out) == before


def test_missing_picture_is_made_again(make, interrupt_before_sums, contents, tmp_path):
    """A shard of class folders is finished only if all of its pictures are there."""
    out, settings = tmp_path / "set", {"format": "imagefolder"}
    interrupt_before_sums(out, **settings)
    whole = contents(out)
    for index in (0, 27):  # the first one of a shard, and one in the middle of another
        (out / f"train/{index % 10}/{index:09d}.png").unlink()
    assert make(out, **settings) == 0
    made = contents(out)
    assert {name: made[name] for name in whole if name.endswith(".png")} == {
        name: whole[name] for name in whole if name.endswith(".png")
    }


def test_killed_worker_ends_the_run(arguments, make, tmp_path):
    """A worker that the system kills, for want of memory, is one line, and the run can go on."""
    out, settings = tmp_path / "set", {"count": 3_000, "shard_size": 100, "workers": 2}
    started = start(arguments(out=out, **settings))
    done = out / ".imagemint/done"
    wait_until(lambda: done.is_dir() and any(done.iterdir()), started)
    workers = [child for child in find_children(started.pid) if has_blocked(child, signal.SIGINT)]
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, said = started.communicate()
    assert started.returncode == 1, said
    assert said.startswith("imagemint dataset: a worker process ended unexpectedly")
    assert said.count("\n") == 1
    assert not (out / "SHA256SUMS").exists()
    assert not list((out / ".imagemint").glob("partial-*"))
    assert make(out, **settings) == 0


def test_interrupted_end_is_completed(make, contents, tmp_path):
    """A complete data set whose journal is still there loses it, and nothing else."""
    assert make(tmp_path) == 0
    before = contents(tmp_path)
    (tmp_path / ".imagemint/done").mkdir(parents=True)
    (tmp_path / ".imagemint/done/00000002.json").write_text("[]")
    assert make(tmp_path) == 0
    assert contents(tmp_path) == before
    assert not (tmp_path / ".imagemint").exists()


def test_missing_shard_is_made_again(make, interrupt_before_sums, contents, tmp_path):
    """Only a shard that is in the journal and missing in the folder is made again."""
    out = tmp_path / "set"
    interrupt_before_sums(out)
    (out / "train-000000020-000000039.npz").unlink()
    others = {path: path.stat().st_ino for path in out.glob("*.npz")}
    assert make(out, progress=True) == 0  # the bar counts existing shards
    assert make(tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert all(path.stat().st_ino == inode for path, inode in others.items())
