"""The connection of a client: opens its channel, and finds servers that have moved."""

import asyncio
import contextlib
import time
from typing import cast

from grpc import aio

from imagemint.client import forks
from imagemint.client.channel import ChannelPlan, Tls, may_move, plan_channel
from imagemint.client.errors import ClientClosed, DeadlineExceeded
from imagemint.client.lifetime import Lifetime
from imagemint.client.relay import RelayChannel

# gRPC resolves a single name again by itself. Of several names, this module does.
_RESOLVE_INTERVAL_S = 30.0
# Calls to servers that are down ask for a lookup each.
_SHORTEST_RESOLVE_INTERVAL_S = 1.0
# How long a call waits for new addresses after another call has reached no server. If the names
# cannot be resolved now, the addresses that are known may work again.
_RESOLVE_WAIT_S = 1.0


class Connection:
    """A channel that the first call opens, and that follows the addresses of several names.

    It belongs to the event loop of the first call, as a channel does.

    Args:
        targets: result of `channel.parse_targets`.
        tls: encryption settings; None for plain text.
        lifetime: lifetime of the client.
    """

    def __init__(self, targets: tuple[str, ...], tls: Tls | None, lifetime: Lifetime) -> None:
        self._targets = targets
        self._tls = tls
        self._lifetime = lifetime
        self._may_move = may_move(targets)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: aio.Channel | None = None
        self._plan: ChannelPlan | None = None
        self._planned_at = 0.0
        self._opening: asyncio.Task[None] | None = None

    async def open(self, timeout_s: float | None) -> aio.Channel:
        """Returns the channel. Do not keep it: a later call may need another one.

        Args:
            timeout_s: longest time to wait for it in seconds; None for no limit.

        Raises:
            ClientForked, ClientClosed: the client cannot be used any more.
            DeadlineExceeded: the names were not resolved in time.
            Unavailable: no name can be resolved.
            OSError: a TLS file cannot be read.
            RuntimeError: the client belongs to another event loop.
        """
        self._lifetime.check()
        self._check_loop()
        if not self._has_channel:
            await self._wait_for_channel(timeout_s)
        elif self._may_move:
            await self._follow(timeout_s)
        self._lifetime.check()  # it may have been closed meanwhile
        assert self._channel is not None  # noqa: S101 - for the type checker
        return self._channel

    async def close(self) -> None:
        """Closes the channel, which ends its calls. The lifetime says `closed` already."""
        opened, self._channel = self._channel, None
        if self._opening is not None:
            self._opening.cancel()
        if opened is not None:
            await opened.close()

    @property
    def _has_channel(self) -> bool:
        """Whether there is a channel that can make calls."""
        channel: object = self._channel  # a relay has no type in common with the channels of gRPC
        return channel is not None and not (isinstance(channel, RelayChannel) and channel.has_ended)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError(
                "this AsyncClient belongs to the event loop of its first call; create one for each"
                " event loop"
            )
        self._loop = loop

    async def _wait_for_channel(self, timeout_s: float | None) -> None:
        opening = self._start_opening()
        try:
            async with asyncio.timeout(timeout_s):
                # Other calls wait for the same channel, so a cancelled call must not cancel it.
                await asyncio.shield(opening)
        except TimeoutError:
            names = ", ".join(self._targets)
            raise DeadlineExceeded(
                f"{names}: not resolved within {round(timeout_s or 0, 3):g} s"
            ) from None
        except asyncio.CancelledError:
            if self._lifetime.closed:
                raise ClientClosed from None
            raise

    async def _follow(self, timeout_s: float | None) -> None:
        """Resolves the names again if it is time to, or if a call has reached no server."""
        age_s = time.monotonic() - self._planned_at
        if self._lifetime.unreachable_at > self._planned_at:
            if age_s >= _SHORTEST_RESOLVE_INTERVAL_S:
                wait_s = _RESOLVE_WAIT_S if timeout_s is None else min(timeout_s, _RESOLVE_WAIT_S)
                await asyncio.wait([self._start_opening()], timeout=wait_s)
        elif age_s >= _RESOLVE_INTERVAL_S and not forks.is_grpc_broken():
            self._start_opening()  # in the background: the channel works

    def _start_opening(self) -> asyncio.Task[None]:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._end_opening)
        return self._opening

    def _end_opening(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # those that wait for the task raise it

    async def _open(self) -> None:
        """Opens a channel, unless the present one works and has the same addresses."""
        began = time.monotonic()
        try:
            plan = await plan_channel(self._targets, self._tls)
        finally:
            self._planned_at = began
        if self._has_channel and plan == self._plan:
            return
        before = self._channel
        if forks.is_grpc_broken():
            # The relay has the methods of a channel that the stubs use.
            opened = cast("aio.Channel", await RelayChannel.start(plan))
        else:
            opened = forks.open_channel(plan.open)
        if self._lifetime.closed:  # during an await
            await opened.close()
            raise ClientClosed
        self._channel, self._plan = opened, plan
        # A channel of gRPC ends with the last reference to it, and its calls go on. A relay has a
        # process, and nothing else ends it.
        if isinstance(before, RelayChannel):
            with contextlib.suppress(OSError):
                await before.replace()
