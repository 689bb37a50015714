"""Lists and closes the TCP connections of this process.

gRPC cannot close a single connection, nor limit the connections of one address. This module finds
the sockets through the operating system and shuts them down. gRPC then sees the other end leave,
and fails the calls of the connection.
"""

import contextlib
import heapq
import ipaddress
import math
import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

Peer: TypeAlias = tuple[str, int]
"""IP address and port of the other end of a connection."""

_DESCRIPTORS = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
# One machine may have a whole /64 network of IPv6 addresses.
_IPV6_PREFIX = 64


def parse_peer(name: str) -> Peer | None:
    """Returns the peer of a gRPC name such as `ipv4:10.0.0.7:50123`; None for other kinds."""
    kind, _, rest = name.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host, _, port = unquote(rest).rpartition(":")
    return _normalize_address(host.strip("[]")), int(port)


def parse_machine(name: str) -> str:
    """Returns the machine of a gRPC peer name: its IPv4 address or /64 network of IPv6."""
    kind, _, rest = name.partition(":")
    if kind == "ipv4":
        return rest.rpartition(":")[0]
    peer = parse_peer(name)
    return name if peer is None else get_machine(peer[0])


def get_machine(host: str) -> str:
    """Returns the machine of an IP address: the IPv4 address, or the /64 network of IPv6."""
    if ":" not in host:
        return host
    return str(ipaddress.IPv6Network((host, _IPV6_PREFIX), strict=False))


def count_descriptors() -> int:
    """Returns the number of open file descriptors of this process."""
    return sum(1 for _ in _DESCRIPTORS.iterdir())


def list_connections(port: int) -> list[Peer]:
    """Returns the peers of the connections that were accepted on a port.

    They come in the order of their descriptors. This is the order of their age, except where a
    connection has the descriptor of one that was closed.
    """
    return [peer for peer, _ in _iterate_connections(port)]


def count_connections(port: int) -> float:
    """Returns the number of connections on a port; NaN if no file descriptor is left to look."""
    try:
        return float(len(list_connections(port)))
    except OSError:
        return math.nan


def close_connections(port: int, peers: Collection[Peer]) -> None:
    """Shuts down the connections of these peers that were accepted on a port."""
    for peer, connection in _iterate_connections(port):
        if peer in peers:
            with contextlib.suppress(OSError):  # it has just closed by itself
                connection.shutdown(socket.SHUT_RDWR)


def choose_surplus(connections: Sequence[Peer], busy: Collection[Peer], most: int) -> set[Peer]:
    """Returns the connections to close so that at most `most` remain.

    Args:
        connections: all connections, in the order of preference.
        busy: connections with a running call, which are kept.
        most: number of connections that may remain.

    Returns:
        Idle connections. Each step chooses the first idle connection of the machine with the most.
    """
    counts = Counter(get_machine(host) for host, _ in connections)
    idle: dict[str, deque[Peer]] = {}
    for peer in connections:
        if peer not in busy:
            idle.setdefault(get_machine(peer[0]), deque()).append(peer)
    heap = [(-counts[machine], machine) for machine in idle]
    heapq.heapify(heap)
    chosen: set[Peer] = set()
    while heap and len(chosen) < len(connections) - most:
        count, machine = heapq.heappop(heap)
        chosen.add(idle[machine].popleft())
        if idle[machine]:
            heapq.heappush(heap, (count + 1, machine))
    return chosen


def _iterate_connections(port: int) -> Iterator[tuple[Peer, socket.socket]]:
    for descriptor in sorted(int(path.name) for path in _DESCRIPTORS.iterdir()):
        connection = _duplicate_socket(descriptor)
        if connection is None:
            continue
        with connection:
            try:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                remote_host, remote_port = connection.getpeername()[:2]
                accepted_on = connection.getsockname()[1]
            except OSError:  # not connected, or just closed
                continue
            if accepted_on == port:
                yield (_normalize_address(remote_host), remote_port), connection


def _duplicate_socket(descriptor: int) -> socket.socket | None:
    """Returns a duplicate of a socket; None if the descriptor is closed or no socket.

    A duplicate, because gRPC may close the descriptor, whose number may then refer to another file.
    """
    try:
        duplicate = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # no socket; the constructor then leaves the descriptor open
        os.close(duplicate)
        return None


def _normalize_address(host: str) -> str:
    """Returns an address without its zone; an IPv4-mapped address becomes IPv4."""
    return host.partition("%")[0].removeprefix("::ffff:")
