"""The one port of all workers."""

import socket
from contextlib import closing

import pytest

from imagemint.server.processes.ports import reserve


def listener(port, *, shared):
    """A server of somebody's, who may be willing to share."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def test_port_is_found_and_shared():
    """Port 0 becomes a number, on which several may then listen, and get the connections."""
    held, address = reserve("127.0.0.1:0")
    port = int(address.rpartition(":")[2])
    with held, listener(port, shared=True) as one, listener(port, shared=True) as other:
        assert port
        for each in (one, other):
            each.setblocking(False)
        for _ in range(8):  # the one who reserved takes none: it would never answer
            with socket.create_connection(("127.0.0.1", port), timeout=10):
                assert any(_accepts(each) for each in (one, other))


def _accepts(listening):
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("shared", [False, True])
def test_port_of_another_server_is_refused(shared):
    """Even of one who would share it: half of the calls would be his."""
    with listener(0, shared=shared) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use"):
            reserve(address)


def test_port_is_reserved_once():
    """Two supervisors never share a port, even before their workers listen."""
    held, address = reserve("127.0.0.1:0")
    with closing(held), pytest.raises(OSError, match="in use"):
        reserve(address)


def test_unknown_host_is_refused():
    """With the address as it was given."""
    with pytest.raises(OSError, match=r"cannot listen on no host:1: "):
        reserve("no host:1")
