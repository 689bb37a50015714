"""The command `imagemint serve`: what it says when it cannot."""

import socket

import pytest

from imagemint.client import cli
from imagemint.server.telemetry import logs


@pytest.fixture(autouse=True)
def _own_logs(monkeypatch):
    """The handlers of pytest stay where they are."""
    monkeypatch.setattr(logs, "configure_logs", lambda log_format, level: None)


@pytest.mark.parametrize("flag", ["--grpc-address", "--metrics-address"])
def test_address_in_use_is_one_line(models, capfd, flag):
    """It names the address and the reason, nothing comes beside it, and the exit status is 1."""
    addresses = {"--grpc-address": "127.0.0.1:0", "--metrics-address": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = addresses[flag] = "{}:{}".format(*other.getsockname())
        flags = [f"{name}={address}" for name, address in addresses.items()]
        assert cli.main(["serve", f"--repository={models}", *flags]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"imagemint serve: cannot listen on {taken}: ")
    assert "Address already in use" in line


def test_missing_repository_is_one_line(tmp_path, capfd):
    """So is a path that leads nowhere."""
    assert cli.main(["serve", f"--repository={tmp_path / 'nowhere'}"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("nowhere is not a directory")
