"""Tells systemd the state of the server, by the protocol of sd_notify(3).

A unit of `Type=notify` gets the address of a socket in NOTIFY_SOCKET, and with `WatchdogSec` the
period in which systemd expects a message in WATCHDOG_USEC. Without these variables nothing is sent.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import structlog

_log = structlog.stdlib.get_logger(__name__)

_SEND_TIMEOUT_S = 1.0


class ServiceManager:
    """The manager that has started this process, if it wants to know the state of the server."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        # The variables are inherited by processes that are not meant.
        is_meant = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self._watchdog_us = int(os.environ.get("WATCHDOG_USEC", "0")) if is_meant else 0

    def report_ready(self) -> None:
        """Reports that the start is complete."""
        self._send("READY=1", "STATUS=serving")

    def report_draining(self, limit_s: float) -> None:
        """Reports that the server drains.

        Args:
            limit_s: time in seconds until it has ended. systemd waits as long, also if the unit has
                a shorter `TimeoutStopSec`.
        """
        self._send(
            "STOPPING=1",
            f"STATUS=draining, for at most {limit_s:.0f} s",
            f"EXTEND_TIMEOUT_USEC={round(limit_s * 1e6)}",
        )

    @contextlib.asynccontextmanager
    async def keep_alive(self) -> AsyncIterator[None]:
        """Sends the messages of the watchdog, if there is one, as long as the event loop works."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while self._watchdog_us:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_us / 2e6)

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte with which abstract addresses begin.
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            _log.warning("service manager not reached", address=self._address, reason=str(error))
