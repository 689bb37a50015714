"""The running calls: counts them, and ends those that may not or cannot go on.

Once per second, the server checks every call. A call whose key was withdrawn, or may no longer use
its model, ends with that error. A call whose client reads nothing for `stall_timeout_s` ends with
its connection: gRPC has no deadline for a write and no other way to cancel one. If connections
become scarce, the server closes idle ones before gRPC has to refuse new ones.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

import structlog

from imagemint.server.access.caller import Caller, Guard
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.rpc.call import Call, Context
from imagemint.server.rpc.connections import (
    Peer,
    choose_surplus,
    close_connections,
    count_connections,
    count_descriptors,
    list_connections,
    parse_machine,
)
from imagemint.server.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger(__name__)

_CHECK_INTERVAL_S = 1.0
# A stream drops the chunks that it computed ahead if its reader takes nothing for this time.
_PATIENCE_S = 1.0
# Idle connections are closed above the first share of `max_connections`, down to the second.
_SCARCE, _ENOUGH = 0.75, 0.5


class RunningCalls:
    """Counts the running calls and checks them once per second.

    Args:
        guard: enforces the limits on calls.
        budget: limits the bytes in flight.
        metrics: the server's metrics.
        stall_timeout_s: seconds that a client may leave an answer unread; None for no limit.
        max_connections: number of connections that gRPC accepts.
    """

    def __init__(
        self,
        guard: Guard,
        budget: Budget,
        metrics: Metrics,
        *,
        stall_timeout_s: float | None,
        max_connections: int,
    ) -> None:
        self._guard = guard
        self._budget = budget
        self._metrics = metrics
        self._ended = metrics.ended
        self._stall_timeout_s = math.inf if stall_timeout_s is None else stall_timeout_s
        self._max_connections = max_connections
        self._calls: set[Call] = set()
        # Connections with a health check that is not limited, by their names.
        self._health_checked: set[str] = set()
        self._ports: set[int] = set()
        self._counted_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._watching: asyncio.Task[None] | None = None

    def enter(self, call: Call, caller: Caller, context: Context, *, is_health_check: bool) -> None:
        """Counts a call until gRPC has finished it, which is after its last byte was sent.

        The limit on calls of one caller does not count one health check of each connection. Our
        clients have one for as long as they are connected, and the others of their machine must
        not end it.

        Args:
            call: the call, whose handler runs on this task.
            caller: the caller.
            context: context of the call.
            is_health_check: whether it is a health check; health checks do not count as work.

        Raises:
            TooManyCalls: the limit on calls is reached.
        """
        owner = caller.name or parse_machine(context.peer())
        connection = context.peer()
        is_free = is_health_check and connection not in self._health_checked
        if is_free:
            self._health_checked.add(connection)
        else:
            self._guard.enter(caller, owner, is_health_check=is_health_check)
        call.enter(context, caller, owner, is_health_check=is_health_check)
        call.budget = self._budget
        self._calls.add(call)
        if not is_health_check:
            self._counted_calls += 1
            self._idle.clear()

        def leave(_: Context) -> None:
            if is_free:
                self._health_checked.discard(connection)
            else:
                self._guard.leave(owner, is_health_check=is_health_check)
            self._calls.discard(call)
            call.release_all()
            if not is_health_check:
                self._counted_calls -= 1
                if not self._counted_calls:
                    self._idle.set()

        context.add_done_callback(leave)  # type: ignore[arg-type] # the stub wants a protocol

    async def wait_idle(self, timeout_s: float) -> None:
        """Waits until only health checks are running, for `timeout_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    def start(self, port: int, listener: str) -> None:
        """Starts to check the calls on this port; may be called again, and for several ports.

        Args:
            port: the port.
            listener: its name in the metrics.
        """
        self._ports.add(port)
        # Both listeners close surplus connections without a word, so only these show it.
        metrics = self._metrics
        metrics.watch(metrics.connections, (listener,), lambda: count_connections(port))
        metrics.connections_limit.labels(listener).set(self._max_connections)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Stops checking. May be called twice."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            try:
                stuck = self._check_calls()
                for port in self._ports:
                    await self._close(port, stuck)
                await self._close_idle()
            except Exception:  # noqa: BLE001 - after any error, the next check must run
                _log.exception("calls not watched")

    def _check_calls(self) -> set[Peer]:
        """Ends calls that must end; returns the connections that must be closed to end theirs."""
        self._guard.reload_if_changed()
        now, stuck = time.monotonic(), set[Peer]()
        for call in tuple(self._calls):
            blocked_s = now - call.sending_since
            is_stalled = blocked_s > self._stall_timeout_s
            # A call that an earlier check ended and that still sends does not end by itself.
            if (is_stalled or (call.ended is not None and blocked_s > _PATIENCE_S)) and call.peer:
                if call.ended is None:
                    self._count("stalled", call)
                stuck.add(call.peer)
            elif (
                call.ended is None
                and (error := call.caller.find_end_reason(call.model)) is not None
            ):
                self._count("withdrawn", call)
                call.end(error)
            elif blocked_s > _PATIENCE_S and call.relieve is not None:
                call.relieve()
        return stuck

    def _count(self, reason: str, call: Call) -> None:
        self._ended.labels(reason).inc()
        _log.warning(
            "call ended", reason=reason, request_id=call.request_id, client=call.caller.name
        )

    async def _close_idle(self) -> None:
        """Closes idle connections if most of the allowed connections are in use."""
        scarce = _SCARCE * self._max_connections
        if count_descriptors() < scarce:
            return
        for port in self._ports:
            found = await asyncio.to_thread(list_connections, port)
            if len(found) > scarce:
                await self._close(port, self._choose_surplus(found))

    def _choose_surplus(self, found: Sequence[Peer]) -> set[Peer]:
        calls = (call for call in self._calls if not call.is_health_check)
        busy = {call.peer for call in calls if call.peer is not None}
        chosen = choose_surplus(found, busy, int(_ENOUGH * self._max_connections))
        if chosen:
            _log.warning("idle connections closed", closed=len(chosen), connections=len(found))
        return chosen

    @staticmethod
    async def _close(port: int, peers: set[Peer]) -> None:
        if peers:
            await asyncio.to_thread(close_connections, port, peers)
