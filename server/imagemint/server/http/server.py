"""The HTTP listener: uvicorn on the event loop of the server, without its signal handlers."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from imagemint.server.http.protocol import make_protocol
from imagemint.server.http.tls import make_tls_context
from imagemint.server.rpc.channel_options import MAX_METADATA_BYTES
from imagemint.server.settings import ServeSettings, join_address, split_address
from imagemint.server.telemetry.metrics import Metrics

_BACKLOG = 2_048
# Connections without requests; longer than the interval in which browsers and pools reuse them.
_KEEP_ALIVE_S = 75
# Time for the transport to send an answer that it has accepted.
_CLOSING_S = 1.0


class HttpServer:
    """Serves an application until `stop`.

    Args:
        settings: addresses and limits.
        application: the ASGI application.
        metrics: counts how often certificates are read again.
        max_connections: number of connections to accept.
        shares_port: whether other processes listen on the same port.

    Raises:
        CertificateError: the files of the settings cannot be used.
    """

    def __init__(
        self,
        settings: ServeSettings,
        application: ASGIApp,
        metrics: Metrics,
        *,
        max_connections: int,
        shares_port: bool,
    ) -> None:
        self._shares_port = shares_port
        config = uvicorn.Config(
            application,
            http=make_protocol(
                settings.http_receive_timeout_s, settings.stall_timeout_s, max_connections
            ),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # do not log clients that send no HTTP
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSING_S,  # type: ignore[arg-type] # it goes to asyncio.wait_for
            h11_max_incomplete_event_size=MAX_METADATA_BYTES,
        )
        config.load()
        config.ssl = make_tls_context(settings, metrics)
        self._scheme = "http" if config.ssl is None else "https"
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None
        self.url = ""
        """Address of the page; empty before `start`."""
        self.port = 0

    async def start(self, address: str) -> None:
        """Starts to listen.

        Args:
            address: HOST:PORT; port 0 chooses a free port.

        Raises:
            OSError: the server cannot listen on the address.
        """
        listener = _listen(address, shares_port=self._shares_port)
        self.port = listener.getsockname()[1]
        host, _ = split_address(address)
        self.url = f"{self._scheme}://{join_address(host, self.port)}/"
        self._serving = asyncio.create_task(self._server.serve([listener]))

    async def stop(self) -> None:
        """Stops listening, and closes all connections; unsent answers get one more second."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        self._serving = None


class _Server(uvicorn.Server):
    """A uvicorn server that does not handle signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures no signals."""
        yield


def _listen(address: str, *, shares_port: bool) -> socket.socket:
    """Returns a socket that listens, so that clients can connect before the server accepts them.

    Raises:
        OSError: the address is not available.
    """
    host, port = split_address(address)
    with contextlib.ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, where = found[0]
            listener = opened.enter_context(socket.socket(family, kind, protocol))
            # Old connections of a server that just ended must not block the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shares_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(where)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        opened.pop_all()
    return listener
