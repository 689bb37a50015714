"""The HTTP endpoint that Prometheus reads."""

import contextlib
import socket
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from imagemint.server.settings import join_address, split_address


def expose(address: str, registry: CollectorRegistry) -> tuple[str, Callable[[], None]]:
    """Serves a registry at /metrics; returns where, and what ends that.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        registry: what is told.

    Raises:
        OSError: the address cannot be had.
    """
    host, port = split_address(address)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error

    def stop() -> None:
        ending = threading.Thread(target=server.shutdown)
        ending.start()
        with contextlib.suppress(OSError):  # wakes it; by itself it looks twice a second
            server.socket.shutdown(socket.SHUT_RDWR)
        ending.join()
        server.server_close()
        thread.join()

    return join_address(host, server.server_port), stop
