"""Tests of the port that all workers share."""

import select
import socket
from contextlib import closing

import pytest
from held_backend import WAIT_S

from imagemint.server.processes.ports import reserve


def listen(port, *, shared):
    """Listens on a port as another server, with or without SO_REUSEPORT."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def test_port_is_reserved_and_shared():
    """Port 0 becomes a number on which several servers can listen and get the connections."""
    held, address = reserve("127.0.0.1:0")
    port = int(address.rpartition(":")[2])
    with held, listen(port, shared=True) as one, listen(port, shared=True) as other:
        assert port
        for _ in range(8):  # the reserving socket takes none, because it would never answer
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S):
                (ready, *_), _, _ = select.select([one, other], [], [], WAIT_S)
                ready.accept()[0].close()


@pytest.mark.parametrize("shared", [False, True])
def test_port_of_another_server_is_refused(shared):
    """The port of a server that would share it is also refused: it would get half of the calls."""
    with listen(0, shared=shared) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use"):
            reserve(address)


def test_port_is_reserved_once():
    """Two supervisors never share a port, even before their workers listen."""
    held, address = reserve("127.0.0.1:0")
    with closing(held), pytest.raises(OSError, match="in use"):
        reserve(address)


def test_unknown_host_is_refused():
    """The error has the address as it was given."""
    with pytest.raises(OSError, match=r"cannot listen on no host:1: "):
        reserve("no host:1")
