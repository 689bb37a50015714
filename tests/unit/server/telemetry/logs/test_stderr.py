"""Tests of output of native code to file descriptor 2, in a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

HEAD = """
import logging, os, sys, threading, warnings
from imagemint.server.telemetry.logs import close_logs, configure_logs, count_dropped_lines
from imagemint.server.telemetry.logs.rate_limits import LineLimit

# On a busy machine, the limits would admit more lines in the time that a program takes.
LineLimit.PEER, LineLimit.ALL = (LineLimit.PEER[0], 0.0), (LineLimit.ALL[0], 0.0)
configure_logs("json", "info")
"""


def read_records(code, status=0):
    """Returns the records that a program writes to stderr. Every line must be one."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_grpc_text_cannot_forge_a_line():
    """Text with line feeds is one record with the level of gRPC's core."""
    code = r"""
text = "Debug Text: too\n" + '{"event": "ready", "level": "info"}\n'
prefix = "E1128 08:39:52.206038   12376 chttp2_transport.cc:1403] ipv4:127.0.0.1:1: "
os.write(2, (prefix + text).encode())
"""
    (record,) = read_records(code)
    assert (record["logger"], record["level"]) == ("grpc.core", "error")
    assert record["event"].endswith('\n{"event": "ready", "level": "info"}')


def test_other_lines_are_records():
    """Lines of ONNX Runtime keep their level, and others are warnings.

    Invalid bytes are escaped.
    """
    code = r"""
os.write(2, b"2026-11-28 08:39:52.1 [W:onnxruntime:Default, a.cc:12 f] slow\n")
close_logs(); configure_logs("json", "info")
os.write(2, b"\xff whatever\nwithout end")
"""
    runtime, other, last = read_records(code)
    assert (runtime["logger"], runtime["level"]) == ("onnxruntime", "warning")
    assert (other["logger"], other["level"]) == ("stderr", "warning")
    assert [other["event"], last["event"]] == ["\\xff whatever", "without end"]


def test_flood_is_limited_and_counted():
    """Writers never block, even if they write more than the reader reads."""
    code = r"""
line = b"E1128 08:39:52.2   12376 a.cc:1403] ipv4:127.0.0.1:1: " + b"x" * 1500 + b"\n"
for _ in range(20_000):
    try:
        os.write(2, line)
    except BlockingIOError:
        pass
close_logs()
"""
    records = read_records(code)
    left_out = [
        record["lines"] for record in records if record["event"] == "log lines of gRPC left out"
    ]
    assert sum(left_out) > 100
    assert len(records) - len(left_out) == 10


def test_closed_stderr_is_no_failure():
    """Lines are discarded, and no file that is opened later gets them."""
    code = (
        "import os\nos.close(2)\n"
        + HEAD
        + 'logging.getLogger("x").error("lost"); file = os.open("/dev/null", os.O_RDWR)\n'
        "assert file > 2; close_logs()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_grpc_loggers_are_limited():
    """Lines of gRPC's loggers are limited at every level. Lines of this project are not."""
    code = r"""
for _ in range(300):
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"s3cret\xff")
    logging.getLogger("imagemint").info("ours")
assert count_dropped_lines() == {"queue_full": 0, "rate_limited": 200}
"""
    events = [record["event"] for record in read_records(code)]
    assert events.count("ours") == 300
    assert sum(event.startswith("Invalid encoding") for event in events) == 100
    assert not any("s3cret" in event for event in events)


def test_warnings_and_unhandled_exceptions_are_records():
    """Python would print them as plain text to stderr."""
    code = r"""
warnings.warn("odd", RuntimeWarning)
def fail():
    raise ValueError("lost")
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise ValueError("unraisable")
Broken()
"""
    warned, lost, unraisable = read_records(code)
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert (lost["event"], lost["thread"]) == ("thread failed", "worker")
    assert "ValueError: lost" in lost["exception"]
    assert "ValueError: unraisable" in unraisable["exception"]


def test_stderr_is_restored():
    """After the log is closed, output to stderr is plain text again."""
    code = 'logging.getLogger("x").error("first"); close_logs(); print("last", file=sys.stderr)'
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=True
    )
    first, last = done.stderr.splitlines()
    assert json.loads(first)["event"] == "first"
    assert last == "last"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crash_is_printed_to_the_real_stderr(number):
    """The traceback of a crash is printed although descriptor 2 is captured."""
    code = f"os.kill(os.getpid(), {int(number)})"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == -number
    assert "Fatal Python error" in done.stderr
