"""The TCP connections of this process, as the operating system lists them.

gRPC offers no way to close a single connection, nor to limit those of one address. Shutting the
socket down does: gRPC then sees the other end leave, and fails the calls of the connection.
"""

import contextlib
import heapq
import ipaddress
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
# One machine has a whole network of IPv6 addresses.
_IPV6_PREFIX = 64


def parse_peer(name: str) -> Peer | None:
    """Returns the peer that gRPC names, such as `ipv4:10.0.0.7:50123`; None for another kind."""
    kind, _, rest = name.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host, _, port = unquote(rest).rpartition(":")
    return _normalize_address(host.strip("[]")), int(port)


def parse_machine(name: str) -> str:
    """Returns what stands for the machine of a peer that gRPC names: for IPv6 its /64 network."""
    kind, _, rest = name.partition(":")
    if kind == "ipv4":
        return rest.rpartition(":")[0]
    peer = parse_peer(name)
    return name if peer is None else get_machine(peer[0])


def get_machine(host: str) -> str:
    """Returns what stands for the machine of an IP address: for IPv6 its /64 network."""
    if ":" not in host:
        return host
    return str(ipaddress.IPv6Network((host, _IPV6_PREFIX), strict=False))


def count_descriptors() -> int:
    """Returns the file descriptors that this process has open."""
    return sum(1 for _ in _DESCRIPTORS.iterdir())


def list_connections(port: int) -> list[Peer]:
    """Returns the peers of the connections that were accepted on a port, the oldest first."""
    return [peer for peer, _ in _iterate_connections(port)]


def close_connections(port: int, peers: Collection[Peer]) -> None:
    """Shuts down the connections of some peers that were accepted on a port."""
    for peer, connection in _iterate_connections(port):
        if peer in peers:
            with contextlib.suppress(OSError):  # it has just closed by itself
                connection.shutdown(socket.SHUT_RDWR)


def choose_surplus(connections: Sequence[Peer], busy: Collection[Peer], most: int) -> set[Peer]:
    """Returns which connections to close so that at most `most` are left.

    Args:
        connections: all of them, the oldest first.
        busy: those with a call under way, which stay.
        most: how many may be left.

    Returns:
        Idle connections: each time the oldest of the machine that has the most.
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
        try:
            # A duplicate, because gRPC may close the descriptor and get it again for another file.
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    host, there = connection.getpeername()[:2]
                    if connection.getsockname()[1] == port:
                        yield (_normalize_address(host), there), connection
        except OSError:  # no socket, not connected, or closed meanwhile
            continue


def _normalize_address(host: str) -> str:
    """An address without the zone of a link, and IPv4 in its own form."""
    return host.partition("%")[0].removeprefix("::ffff:")
