"""uvicorn's HTTP/1.1 protocol, with limits on slow clients and on the number of connections.

uvicorn limits neither the time in which a request must arrive, nor the time in which an answer must
be read. A client could therefore keep a connection open for ever.
"""

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

# The application answers 408 when the body is late. It has this time to do so.
_ANSWER_S = 1.0
_INCOMPLETE = (h11.IDLE, h11.SEND_BODY)


class LimitedProtocol(H11Protocol):
    """Closes connections whose requests do not arrive, or whose last answers are not read.

    Subclasses set the limits.
    """

    receive_timeout_s = 10.0
    """Time for a request to arrive, from its first byte or from the connection's beginning."""
    flush_timeout_s: float | None = 60.0
    """Time to read the rest of an answer after the connection was closed; None for no limit."""
    max_connections = 1_024
    """Maximum number of connections; further ones are closed at once."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._arriving: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Accepts a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._watch_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timers."""
        super().connection_lost(exc)
        for timer in (self._arriving, self._closing):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Reads a part of a request."""
        super().data_received(data)
        if self.conn.their_state in _INCOMPLETE:
            self._watch_arrival()
        elif self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, even if its client does not read the end of its answer."""
        super().timeout_keep_alive_handler()
        if self.flush_timeout_s is not None and self._closing is None:
            self._closing = self.loop.call_later(self.flush_timeout_s, self.transport.abort)

    def _watch_arrival(self) -> None:
        if self._arriving is None:
            limit_s = self.receive_timeout_s + _ANSWER_S
            self._arriving = self.loop.call_later(limit_s, self.transport.abort)


def make_protocol(
    receive_timeout_s: float, flush_timeout_s: float | None, max_connections: int
) -> type[LimitedProtocol]:
    """Returns the protocol class with these limits; see `LimitedProtocol`."""

    class Protocol(LimitedProtocol):
        pass

    Protocol.receive_timeout_s = receive_timeout_s
    Protocol.flush_timeout_s = flush_timeout_s
    Protocol.max_connections = max_connections
    return Protocol
