"""Tests of the rate limits of gRPC's log lines."""

import logging

import pytest

from imagemint.server.telemetry.logs.rate_limits import GrpcFilter, LineLimit


class Clock:
    """A clock whose time the test sets."""

    now = 100.0

    def __call__(self):
        """Returns the time."""
        return self.now


@pytest.fixture
def clock():
    """A clock that does not advance."""
    return Clock()


def count_admitted(limit, line, times):
    """Returns how many of these equal lines pass."""
    return sum(limit.admits(line) for _ in range(times))


def test_noisy_peer_leaves_room_for_others(clock):
    """The limit of a peer does not depend on its port, and it recovers after a while."""
    limit = LineLimit(clock)
    noisy = sum(limit.admits(f"ipv4:10.0.0.1:{port}: Got goaway") for port in range(500))
    assert noisy == LineLimit.PEER[0]
    assert limit.admits("ipv4:10.0.0.2:1: Got goaway")
    assert limit.admits("ipv6:%5B::1%5D:1: Got goaway")
    clock.now += 1 / LineLimit.PEER[1]
    assert count_admitted(limit, "ipv4:10.0.0.1:9: Got goaway", 5) == 1
    assert limit.take_refused() == 494
    assert limit.take_refused() == 0


def test_total_is_limited(clock):
    """The total limit applies to any number of peers and to lines without a peer."""
    limit = LineLimit(clock)
    assert sum(limit.admits(f"ipv4:10.{n >> 8}.{n & 255}.1:1") for n in range(2_000)) == 100
    assert count_admitted(limit, "no peer", 5) == 0
    clock.now += 1
    assert count_admitted(limit, "no peer", 50) == LineLimit.ALL[1]


@pytest.mark.parametrize(
    ("logger", "passed"),
    [("grpc._cython.cygrpc", 100), ("asyncio", 100), ("imagemint.server", 300), ("grpcx", 300)],
)
def test_only_lines_caused_by_callers_are_limited(clock, logger, passed):
    """Lines of this project are not limited."""
    filtered = GrpcFilter(LineLimit(clock))
    record = logging.LogRecord(logger, logging.ERROR, "", 0, "Invalid %s", ("x",), None)
    assert sum(filtered.filter(record) for _ in range(300)) == passed
