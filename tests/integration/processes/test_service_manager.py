"""Tests of a server that a service manager such as systemd has started."""

import asyncio
import signal
import socket

import pytest
from held_backend import WAIT_S
from server_process import ended, process
from tiny_bundles import write_bundle


@pytest.mark.parametrize("processes", [1, 2])
async def test_manager_learns_of_start_and_drain(tmp_path, processes):
    """The process that the manager started reports for all, and feeds the watchdog meanwhile."""
    write_bundle(tmp_path / "models", "tiny", conditional=False)
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(WAIT_S)

        async def receive():
            return (await asyncio.to_thread(manager.recv, 999)).decode().splitlines()

        async def skip_beats():
            beats = 0
            while (message := await receive()) == ["WATCHDOG=1"]:
                beats += 1
            return beats, message

        options = (f"--repository={tmp_path / 'models'}", f"--processes={processes}")
        variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
        async with process(*options, "--drain-grace-s=7", **variables) as server:
            beats, message = await skip_beats()
            assert beats > 0
            assert message == ["READY=1", "STATUS=serving"]
            server.send_signal(signal.SIGTERM)
            _, message = await skip_beats()
            assert message[0] == "STOPPING=1"
            assert message[-1] == "EXTEND_TIMEOUT_USEC=27000000"
            assert await ended(server) == 0
