"""Tests of the log that the workers of a server share."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from held_backend import WAIT_S

from imagemint.server.repository import SharedLog, shared_log

HOLD_TASK = """
import sys
from pathlib import Path
from imagemint.server.repository import SharedLog, shared_log

with SharedLog(Path(sys.argv[1])).lock_task("one"):
    print("holds it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def log(tmp_path):
    """An empty log."""
    return SharedLog(tmp_path / "log")


def append(log, topic, *values):
    """Appends values to a log."""
    with log.lock() as locked:
        for value in values:
            locked.append(topic, value)


def read(log, topic):
    """Returns the values of a topic."""
    with log.lock() as locked:
        return locked.read(topic)


def test_values_are_read_by_topic(tmp_path, log):
    """Each topic has its own values, in the order in which anybody appended them."""
    append(log, "a", 1, {"x": [None, "ü\n"]})
    append(SharedLog(tmp_path / "log"), "b", 2)
    append(SharedLog(tmp_path / "log"), "a", 3)
    assert read(log, "a") == [1, {"x": [None, "ü\n"]}, 3]
    assert read(log, "b") == [2]
    assert read(log, "c") == []


@pytest.mark.parametrize("fault", ["part", "none"])
def test_failed_append_leaves_the_log_readable(log, monkeypatch, fault):
    """A full disk takes a part of a line, or nothing."""
    append(log, "a", 1)
    write = os.write

    def fail(descriptor, content):
        written = write(descriptor, content[:5])
        if fault == "none":
            raise OSError(28, "No space left on device")
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            append(log, "a", 2)
    append(log, "a", 3)
    assert read(log, "a") == [1, 3]


def test_one_thread_at_a_time_holds_a_task(log):
    """Another thread waits for its end. The log and other tasks are free."""
    entered = threading.Event()

    def enter():
        with log.lock_task("one"):
            entered.set()

    with log.lock_task("one"):
        waiting = threading.Thread(target=enter)
        waiting.start()
        with SharedLog(log._path).lock_task("two"):
            append(log, "a", 1)
        assert not entered.is_set()
    assert entered.wait(WAIT_S)
    waiting.join(WAIT_S)


def test_killed_worker_lets_go_of_its_task(tmp_path, log):
    """Its task is free at once, although it could not end it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_TASK, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout.readline() == "holds it\n"
        worker.send_signal(signal.SIGKILL)
        with log.lock_task("one"):
            assert worker.wait(WAIT_S) == -signal.SIGKILL


def refuse_with(number):
    """Returns a function that raises an OSError."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


def test_kernel_without_such_locks_makes_nobody_wait(log, monkeypatch):
    """Each worker does the task itself."""
    monkeypatch.setattr(shared_log.fcntl, "fcntl", refuse_with(errno.EINVAL))
    with log.lock_task("one"), log.lock_task("one"):
        append(log, "a", 1)
    assert read(log, "a") == [1]


def test_other_errors_of_a_lock_are_raised(log, monkeypatch):
    """A task without its lock could run twice."""
    monkeypatch.setattr(shared_log.fcntl, "fcntl", refuse_with(errno.ENOLCK))
    with pytest.raises(OSError, match="No locks available"), log.lock_task("one"):
        pass
