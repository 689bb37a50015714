"""The one port on which all workers listen."""

import contextlib
import socket

from imagemint.server.settings import join_address, split_address


def reserve(address: str) -> tuple[socket.socket, str]:
    """Takes a port for the workers; returns what holds it, and where it is.

    The socket is bound and never listens, so that the kernel gives it no connection. It is bound
    alone and shared only afterwards: whoever holds the port already makes this fail, even if he
    would share it, and one of our kind who comes later fails in turn.

    Args:
        address: HOST:PORT; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    host, port = split_address(address)
    with contextlib.ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, where = found[0]
            held = opened.enter_context(socket.socket(family, kind, protocol))
            # Connections of a server that ended just now must not be in the way.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(where)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        opened.pop_all()
    return held, join_address(host, held.getsockname()[1])
