"""Reserves the port on which all workers listen."""

import contextlib
import socket

from imagemint.server.settings import join_address, split_address


def reserve(address: str) -> tuple[socket.socket, str]:
    """Reserves a port for the workers; returns the socket that holds it, and its HOST:PORT.

    The socket is bound but never listens, so that the kernel gives it no connections. SO_REUSEPORT
    is set only after binding: binding then fails if any other process has the port, even one that
    shares it, and a second server that starts later fails in the same way.

    Args:
        address: HOST:PORT; port 0 selects a free port.

    Raises:
        OSError: the address is not available.
    """
    host, port = split_address(address)
    with contextlib.ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, where = found[0]
            held = opened.enter_context(socket.socket(family, kind, protocol))
            # Old connections of a server that just ended must not block the port.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(where)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        opened.pop_all()
    return held, join_address(host, held.getsockname()[1])
