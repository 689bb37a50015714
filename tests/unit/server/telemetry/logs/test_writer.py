"""Tests of the log writer: it never blocks its callers, and it counts lost lines."""

import os
import threading
from contextlib import contextmanager, suppress

import pytest

from imagemint.server.telemetry.logs.writer import LogWriter


@contextmanager
def open_full_pipe():
    """Opens a full pipe and yields both ends."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def drain(reading, stop):
    """Reads a pipe until `stop` appears. Returns the content without the leading zeros."""
    content = b""
    while stop not in content:
        content += os.read(reading, 2**16).lstrip(b"\0")
    return content


def test_lines_are_written_in_order():
    """Lines of any thread are written in order, including all lines before `close`."""
    reading, writing = os.pipe()
    writer = LogWriter(writing, lambda lines: b"")
    for number in range(1_000):
        writer.put(b"%d\n" % number)
    assert writer.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert [int(line) for line in file] == list(range(1_000))
    assert writer.dropped == 0


@pytest.mark.parametrize("bounds", [{"most_lines": 3}, {"most_bytes": 12}])
def test_full_queue_drops_and_counts_lines(bounds):
    """The caller continues. As soon as the reader reads, the log has the number of lost lines."""
    with open_full_pipe() as (reading, writing):
        writer = LogWriter(writing, lambda lines: b"%d dropped\n" % lines, **bounds)
        writer.put(b"one\n")
        with writer._changed:
            assert writer._changed.wait_for(lambda: writer._writing, 60)
        for line in (b"two\n", b"3rd\n", b"4th\n", b"5th\n", b"6th\n"):
            writer.put(line)
        assert writer.dropped == 2
        content = drain(reading, b"dropped\n")
        assert content == b"one\ntwo\n3rd\n4th\n2 dropped\n"
        assert writer.close()


def test_close_does_not_wait_for_a_stuck_reader(monkeypatch):
    """The process must be able to end even if its log is not read."""
    monkeypatch.setattr("imagemint.server.telemetry.logs.writer._STUCK_S", 0.01)
    with open_full_pipe() as (reading, writing):
        writer = LogWriter(writing, lambda lines: b"")
        writer.put(b"never read\n")
        assert not writer.close()
        assert writer._thread.daemon
        drain(reading, b"read\n")
        writer._thread.join()


def test_failed_write_loses_only_lines(monkeypatch):
    """Lost lines are counted, and the count is written as soon as writing works again."""
    reading, writing = os.pipe()
    wrote, write, failing = threading.Event(), os.write, threading.Event()
    failing.set()

    def sometimes(descriptor, content):
        if descriptor == writing and failing.is_set():
            wrote.set()
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", sometimes)
    writer = LogWriter(writing, lambda lines: b"%d dropped\n" % lines)
    writer.put(b"lost\n")
    assert wrote.wait(60)
    with writer._changed:
        assert writer._changed.wait_for(lambda: writer.dropped == 1, 60)
    failing.clear()
    writer.put(b"back\n")
    assert drain(reading, b"dropped\n") == b"back\n1 dropped\n"
    assert writer.close()
    os.close(reading)
    os.close(writing)
