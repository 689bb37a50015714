"""Tests of imagemint.server.service_manager, with a socket as systemd has."""

import asyncio
import os
import socket

import pytest
import structlog
from held_backend import WAIT_S

from imagemint.server.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager_socket(request, tmp_path, monkeypatch):
    """The socket of the service manager, whose address is in NOTIFY_SOCKET."""
    spelled = str(tmp_path / "notify") if request.param == "path" else f"@imagemint-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(spelled.replace("@", "\0") if request.param == "abstract" else spelled)
        manager.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", spelled)
        yield manager


def test_states_are_reported(manager_socket):
    """Each state is one datagram of assignments, and a drain says how long it takes."""
    told = ServiceManager()
    told.report_ready()
    told.report_draining(40.5)
    assert manager_socket.recv(999).decode().splitlines() == ["READY=1", "STATUS=serving"]
    assert manager_socket.recv(999).decode().splitlines() == [
        "STOPPING=1",
        "STATUS=draining, for at most 40 s",
        "EXTEND_TIMEOUT_USEC=40500000",
    ]


@pytest.mark.parametrize("names_process", [False, True])
async def test_watchdog_is_fed(manager_socket, monkeypatch, names_process):
    """Messages come as long as the event loop works, and end with the block."""
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    if names_process:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with ServiceManager().keep_alive():
        for _ in range(3):
            assert await asyncio.to_thread(manager_socket.recv, 999) == b"WATCHDOG=1"
        running = {task.get_coro().__name__ for task in asyncio.all_tasks()}
        assert "_beat" in running
    await asyncio.sleep(0)
    assert "_beat" not in {task.get_coro().__name__ for task in asyncio.all_tasks()}


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
async def test_watchdog_of_another_process_is_not_fed(manager_socket, monkeypatch, variables):
    """Variables are inherited, so a process may have those of its parent."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    manager = ServiceManager()
    async with manager.keep_alive():
        await asyncio.sleep(0)
        manager.report_ready()
    assert manager_socket.recv(999).startswith(b"READY=1")


def test_without_a_manager_nothing_is_sent(monkeypatch):
    """A server that was started by hand has no socket."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with structlog.testing.capture_logs() as logged:
        ServiceManager().report_ready()
    assert logged == []


def test_unreachable_manager_is_logged(monkeypatch, tmp_path):
    """The server serves all the same."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    with structlog.testing.capture_logs() as logged:
        ServiceManager().report_ready()
    (line,) = logged
    assert (line["event"], line["address"]) == (
        "service manager not reached",
        str(tmp_path / "absent"),
    )
    assert "No such file" in line["reason"]
