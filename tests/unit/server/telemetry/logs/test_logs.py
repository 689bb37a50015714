"""Tests of the log on stderr: JSON lines or text, written in a process of its own."""

import json
import subprocess
import sys

CODE = """
import logging, sys
import structlog
from imagemint.server.telemetry.logs import configure_logs

configure_logs(sys.argv[1], "info", worker=int(sys.argv[2]) if sys.argv[2:] else None)
structlog.stdlib.get_logger("ours").info("ready", grpc_address="127.0.0.1:8001")
logging.getLogger("other").debug("not said")
hidden = "a local " + "variable"
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("other").exception("failed %d", 7, extra={"model": "digits"})
"""


def read_logs(log_format, *worker):
    """Returns what the code above writes."""
    process = subprocess.run(
        [sys.executable, "-c", CODE, log_format, *worker],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == ""
    return process.stderr


def test_json_is_one_object_per_line():
    """Lines of structlog and of the standard library are objects, including exceptions."""
    ready, failure = (json.loads(line) for line in read_logs("json").splitlines())
    assert (ready["event"], ready["grpc_address"]) == ("ready", "127.0.0.1:8001")
    assert (ready["logger"], ready["level"]) == ("ours", "info")
    assert (failure["event"], failure["level"], failure["model"]) == ("failed 7", "error", "digits")
    assert "ZeroDivisionError" in failure["exception"]
    assert not {"worker"} & (ready.keys() | failure.keys())


def test_every_line_has_its_worker():
    """With several processes every line has the number of the worker."""
    lines = [json.loads(line) for line in read_logs("json", "3").splitlines()]
    assert [line["worker"] for line in lines] == [3, 3]


def test_text_shows_no_variables():
    """The text has the traceback without the values of variables."""
    text = read_logs("console")
    assert "failed 7" in text
    assert "ZeroDivisionError" in text
    assert "a local variable" not in text
    assert "not said" not in text
