"""What is written to file descriptor 2, as native code does; tried in a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

HEAD = """
import logging, os, sys, threading, warnings
from imagemint.server.telemetry.logs import close_logs, configure_logs, dropped_lines

configure_logs("json", "info")
"""


def logged(code, status=0):
    """The records that a program leaves on its stderr; every line must be one."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_line_of_grpc_cannot_forge_one():
    """A text with line feeds is one record, with the level of gRPC's core."""
    code = r"""
text = "Debug Text: too\n" + '{"event": "ready", "level": "info"}\n'
prefix = "E1128 08:39:52.206038   12376 chttp2_transport.cc:1403] ipv4:127.0.0.1:1: "
os.write(2, (prefix + text).encode())
"""
    (record,) = logged(code)
    assert (record["logger"], record["level"]) == ("grpc.core", "error")
    assert record["event"].endswith('\n{"event": "ready", "level": "info"}')


def test_other_lines_are_records_too():
    """ONNX Runtime's with their level, others as warnings; bytes that are not text are escaped."""
    code = r"""
os.write(2, b"2026-11-28 08:39:52.1 [W:onnxruntime:Default, a.cc:12 f] slow\n")
close_logs(); configure_logs("json", "info")
os.write(2, b"\xff whatever\nwithout end")
"""
    runtime, other, last = logged(code)
    assert (runtime["logger"], runtime["level"]) == ("onnxruntime", "warning")
    assert (other["logger"], other["level"]) == ("stderr", "warning")
    assert [other["event"], last["event"]] == ["\\xff whatever", "without end"]


def test_flood_is_bounded_and_counted():
    """Writers never wait, though they write more than the reader reads."""
    code = r"""
line = b"E1128 08:39:52.2   12376 a.cc:1403] ipv4:127.0.0.1:1: " + b"x" * 1500 + b"\n"
for _ in range(20_000):
    try:
        os.write(2, line)
    except BlockingIOError:
        pass
close_logs()
"""
    records = logged(code)
    left_out = [each["lines"] for each in records if each["event"] == "log lines of gRPC left out"]
    assert sum(left_out) > 100
    assert len(records) - len(left_out) == 10


def test_closed_stderr_is_no_fault():
    """Lines go nowhere, and no file that is opened later takes them for its content."""
    code = (
        "import os\nos.close(2)\n"
        + HEAD
        + 'logging.getLogger("x").error("lost"); file = os.open("/dev/null", os.O_RDWR)\n'
        "assert file > 2; close_logs()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_loggers_of_grpc_are_limited():
    """What callers make it say is cut short, whatever the level; our own lines are all there."""
    code = r"""
for _ in range(300):
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"s3cret\xff")
    logging.getLogger("imagemint").info("ours")
assert dropped_lines() == {"queue_full": 0, "rate_limited": 200}
"""
    events = [each["event"] for each in logged(code)]
    assert events.count("ours") == 300
    assert sum(event.startswith("Invalid encoding") for event in events) == 100
    assert not any("s3cret" in event for event in events)


def test_warnings_and_lost_exceptions_are_records():
    """They would be plain text on stderr otherwise."""
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
    warned, lost, unraisable = logged(code)
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert (lost["event"], lost["thread"]) == ("thread failed", "worker")
    assert "ValueError: lost" in lost["exception"]
    assert "ValueError: unraisable" in unraisable["exception"]


def test_stderr_is_given_back():
    """A last word after the log is closed is plain text again."""
    code = 'logging.getLogger("x").error("first"); close_logs(); print("last", file=sys.stderr)'
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=True
    )
    first, last = done.stderr.splitlines()
    assert json.loads(first)["event"] == "first"
    assert last == "last"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crash_is_told_on_the_real_stderr(number):
    """What the interpreter was doing, although descriptor 2 is captured."""
    code = f"os.kill(os.getpid(), {int(number)})"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == -number
    assert "Fatal Python error" in done.stderr
