"""Tests of imagemint.bench.knee: the knee and the search for it."""

import pytest

from imagemint.bench.knee import FINE, GRID, Bound, choose_next_rate, find_knee

BOUND = Bound(p99_ms=100.0)


def test_load_must_meet_both_bounds(make_point):
    """The bounds are inclusive, and a closed loop never holds."""
    assert BOUND.holds(make_point(97.0, 99.9, rate=100.0))
    assert not BOUND.holds(make_point(96.9, 99.9, rate=100.0))
    assert not BOUND.holds(make_point(100.0, 101.0, rate=100.0))
    assert not BOUND.holds(make_point(100.0, 1.0, concurrency=4))


def test_knee_is_below_the_first_load_that_fails(make_point):
    """A higher load that holds by chance does not count. Neither does the order of points."""
    low, middle, high = (make_point(rate, 50.0, rate=rate) for rate in (10.0, 20.0, 40.0))
    broken = make_point(30.0, 150.0, rate=30.0)
    closed = make_point(500.0, 1.0, concurrency=4)
    assert find_knee([high, broken, closed, middle, low], BOUND) is middle
    assert find_knee([low, middle, high], BOUND) is high


def test_there_may_be_no_knee(make_point):
    """There is none if the lowest load fails or no load was offered."""
    assert (
        find_knee([make_point(10.0, 150.0, rate=10.0), make_point(20.0, 1.0, rate=20.0)], BOUND)
        is None
    )
    assert find_knee([make_point(10.0, 1.0, concurrency=1)], BOUND) is None


@pytest.mark.parametrize("true_knee", [3.0, 11.0, 49.0, 83.0, 104.0])
def test_sweep_finds_the_knee(make_point, true_knee):
    """The sweep goes up the grid to the first failure and then bisects to the documented gap."""
    points = [make_point(100.0, 80.0, concurrency=64)]
    while (rate := choose_next_rate(points, BOUND, 100.0)) is not None:
        points.append(make_point(rate, 50.0 if rate <= true_knee else 500.0, rate=rate))
        assert len(points) < 20
    found = find_knee(points, BOUND)
    assert found.load.calls_per_s <= true_knee <= found.load.calls_per_s + FINE * 100.0
    offered = [point.load.calls_per_s for point in points[1:]]
    assert offered[0] == GRID[0] * 100.0


def test_sweep_ends_above_the_capacity(make_point):
    """The sweep ends even if the server holds every load."""
    points = []
    while (rate := choose_next_rate(points, BOUND, 200.0)) is not None:
        points.append(make_point(rate, 1.0, rate=rate))
    assert [point.load.calls_per_s for point in points] == [200.0 * share for share in GRID]
