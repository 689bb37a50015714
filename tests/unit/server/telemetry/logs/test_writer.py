"""Log lines on their way out: nobody waits for the reader, and what is lost is told."""

import os
import threading
from contextlib import contextmanager, suppress

import pytest

from imagemint.server.telemetry.logs.writer import LogWriter


@contextmanager
def pipe_full():
    """A pipe with no room left; yields both ends."""
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
    """Reads a pipe until `stop` stands in what was read; returns all but the zeros before it."""
    content = b""
    while stop not in content:
        content += os.read(reading, 2**16).lstrip(b"\0")
    return content


def test_lines_are_written_in_order():
    """Whatever thread writes them, and all that was put before the end."""
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
def test_full_queue_drops_and_tells(bounds):
    """The caller goes on; once somebody reads, the log says how many lines are missing."""
    with pipe_full() as (reading, writing):
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


def test_close_gives_up_on_a_stuck_reader(monkeypatch):
    """The process must end even if nobody reads its log."""
    monkeypatch.setattr("imagemint.server.telemetry.logs.writer._STUCK_S", 0.01)
    with pipe_full() as (reading, writing):
        writer = LogWriter(writing, lambda lines: b"")
        writer.put(b"never read\n")
        assert not writer.close()
        assert writer._thread.daemon
        drain(reading, b"read\n")
        writer._thread.join()


def test_reader_that_is_gone_costs_lines_only(monkeypatch):
    """They are counted, and the report of them is written once writing works again."""
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
