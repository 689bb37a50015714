"""A lasting way to one address: connects anew when the connection is gone."""

import asyncio
import time
from collections import deque

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire.connection import Connection
from imagemint.client.bench.wire.dialing import Address, dialed
from imagemint.client.bench.wire.exchange import Exchange

# Between attempts to connect: soon again at first, seldom to an address that stays dead.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
# Until a call that was refused is sent again.
_REFUSED_PAUSE_S = 0.001
# gRPC's server never answers the farewell of TLS, so there is nothing to wait for.
_CLOSE_S = 0.1


class Link:
    """Connects to an address as often as need be, and holds calls until there is room for them.

    Args:
        address: where to.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.failure = CallFailed("UNAVAILABLE", f"{address}: not connected")
        """Why there is no connection, while there is none."""
        self._connection: Connection | None = None
        self._open: set[Connection] = set()  # those too that only finish what they took
        self._waiting: deque[Exchange] = deque()
        self._dialing: asyncio.Task[None] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._not_before = 0.0
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether a call would be sent at once, or after those before it."""
        return self._connection is not None

    def submit(self, exchange: Exchange) -> None:
        """Sends a call now, or when it can be."""
        connection = self._connection
        if connection is not None and connection.has_room and not self._waiting:
            connection.start(exchange)
            return
        self._waiting.append(exchange)
        if connection is None:
            self.connect()

    def connect(self) -> None:
        """Begins to connect, unless that failed a moment ago."""
        if self._closed or time.monotonic() < self._not_before:
            self._fail_waiting()
        elif self._dialing is None:
            self._dialing = asyncio.create_task(self._dial())

    async def connected(self) -> None:
        """Waits until there is a connection, or `failure` says why not."""
        self.connect()
        if self._dialing is not None:
            await asyncio.wait([self._dialing])

    async def close(self) -> None:
        """Ends everything."""
        self._closed = True
        self.failure = CallFailed("CANCELLED", "the wire was closed")
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.wait([self._dialing])
        self._fail_waiting()
        closing = list(self._open)
        for connection in closing:
            connection.close()
        if closing:
            await asyncio.wait([each.gone for each in closing], timeout=_CLOSE_S)
        for connection in closing:
            connection.abort()

    def on_room(self) -> None:
        """Sends calls that waited."""
        connection = self._connection
        while self._waiting and connection is not None and connection.has_room:
            exchange = self._waiting.popleft()
            if not exchange.done:
                connection.start(exchange)

    def on_refused(self, exchange: Exchange) -> None:
        """Sends a call again before all others, as gRPC does: nothing of it was done.

        The server may count a stream a moment longer than we do, who have seen its end.
        """
        self._waiting.appendleft(exchange)
        asyncio.get_running_loop().call_later(_REFUSED_PAUSE_S, self.on_room)

    def on_leaving(self, connection: Connection) -> None:
        """New calls take a new connection."""
        if connection is self._connection:
            self._connection = None
            self.connect()

    def on_lost(self, connection: Connection) -> None:
        """As `on_leaving`, and its exchanges have failed."""
        self._open.discard(connection)
        self.on_leaving(connection)

    async def _dial(self) -> None:
        try:
            connection = await dialed(self.address, self)
        except CallFailed as failure:
            self.failure = failure
            self._not_before = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._dialing = None
            self._fail_waiting()
        else:
            self._pause_s = _FIRST_PAUSE_S
            self._dialing = None
            self._connection = connection
            self._open.add(connection)
            self.on_room()

    def _fail_waiting(self) -> None:
        while self._waiting:
            failure = self.failure
            self._waiting.popleft().finish(
                CallFailed(failure.code, failure.message, shed=failure.shed)
            )
