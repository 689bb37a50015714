"""Tests of the command `imagemint serve` when it fails."""

import re
import socket

import pytest

from imagemint.client import cli
from imagemint.server.telemetry import logs


@pytest.fixture(autouse=True)
def _keep_log_handlers(monkeypatch):
    """Keeps the log handlers of pytest."""
    monkeypatch.setattr(logs, "configure_logs", lambda log_format, level: None)


def read_lines(capfd):
    """Returns the lines of stderr but those of gRPC's core, whose threads serve other tests."""
    core = re.compile(r"[IWEF]\d{4} |WARNING: All log messages before absl")
    return [line for line in capfd.readouterr().err.splitlines() if not core.match(line)]


@pytest.mark.parametrize("flag", ["--grpc-address", "--metrics-address"])
def test_used_address_is_one_line(models, capfd, flag):
    """The line has the address and the reason, and the exit status is 1."""
    addresses = {"--grpc-address": "127.0.0.1:0", "--metrics-address": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = addresses[flag] = "{}:{}".format(*other.getsockname())
        flags = [f"{name}={address}" for name, address in addresses.items()]
        assert cli.main(["serve", f"--repository={models}", *flags]) == 1
    (line,) = read_lines(capfd)
    assert line.startswith(f"imagemint serve: cannot listen on {taken}: ")
    assert "Address already in use" in line


def test_missing_repository_is_one_line(tmp_path, capfd):
    """A missing repository is reported in one line."""
    assert cli.main(["serve", f"--repository={tmp_path / 'nowhere'}"]) == 1
    (line,) = read_lines(capfd)
    assert line.endswith("nowhere is not a directory")
