"""Tests of connections: their peers, and which ones are closed when there are too many."""

import contextlib
import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from imagemint.server.rpc.connections import (
    choose_surplus,
    close_connections,
    count_descriptors,
    list_connections,
    parse_machine,
    parse_peer,
)


@pytest.mark.parametrize(
    ("name", "peer", "address"),
    [
        ("ipv4:10.0.0.7:50123", ("10.0.0.7", 50_123), "10.0.0.7"),
        ("ipv6:%5B::1%5D:5", ("::1", 5), "::/64"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:5", ("2001:db8:1:2:3::4", 5), "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", ("fe80::1", 5), "fe80::/64"),
        ("unix:/tmp/socket", None, "unix:/tmp/socket"),
    ],
)
def test_peer_is_parsed(name, peer, address):
    """A machine is an IPv4 address or a /64 network of IPv6."""
    assert parse_peer(name) == peer
    assert parse_machine(name) == address


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_the_selected_connection_is_closed(host):
    """Connections are listed by descriptor and are closed by the peer's address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        ends = [socket.create_connection((host, port)) for _ in range(3)]
        accepted = [listener.accept()[0] for _ in ends]
        peers = [end.getsockname()[:2] for end in ends]
        # A descriptor that closes in between, of an earlier test, is used again.
        by_descriptor = sorted(accepted, key=lambda each: each.fileno())
        assert list_connections(port) == [each.getpeername()[:2] for each in by_descriptor]
        close_connections(port, {peers[1]})
        assert ends[1].recv(1) == b""
        accepted[0].send(b"a")
        accepted[2].send(b"c")
        assert (ends[0].recv(1), ends[2].recv(1)) == (b"a", b"c")
        for each in (*ends, *accepted):
            each.close()


def test_machine_with_most_connections_loses_idle_ones():
    """Its oldest idle connections are closed first, and busy ones stay."""
    many = [("10.0.0.1", port) for port in range(1, 9)]
    few = [("10.0.0.2", 1), ("10.0.0.2", 2)]
    assert choose_surplus([*few, *many], {many[0]}, 6) == set(many[1:5])
    assert choose_surplus([*few, *many], set(), 2) == {*many[:7], few[0]}
    assert choose_surplus([*few, *many], {*few, *many}, 2) == set()
    assert choose_surplus(many, set(), 8) == set()


def count_duplicates(files):
    """Returns how many descriptors of this process each of these files has."""
    found = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # another thread has just closed it
            status = os.fstat(int(path.name))
            found[status.st_dev, status.st_ino] += 1
    statuses = map(os.fstat, files)
    return [found[status.st_dev, status.st_ino] for status in statuses]


def test_listing_leaks_no_descriptor(tmp_path):
    """Listing inspects all descriptors of the process and leaves none open."""
    reading, writing = os.pipe()
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "file").open() as file:
        # Threads of other tests open and close descriptors of their own.
        files = [reading, writing, listener.fileno(), file.fileno()]
        before = count_duplicates(files)
        for _ in range(3):
            assert list_connections(listener.getsockname()[1]) == []
        assert count_duplicates(files) == before
        assert count_descriptors() >= len(files)
    os.close(reading)
    os.close(writing)
