"""Where the knee is, and where a sweep looks for it."""

import pytest

from imagemint.bench.knee import FINE, GRID, Bound, knee, next_rate

BOUND = Bound(p99_ms=100.0)


def test_load_holds_within_both_bounds(make_point):
    """The bounds themselves hold; one step beyond either does not, nor does a closed loop."""
    assert BOUND.holds(make_point(97.0, 99.9, rate=100.0))
    assert not BOUND.holds(make_point(96.9, 99.9, rate=100.0))
    assert not BOUND.holds(make_point(100.0, 101.0, rate=100.0))
    assert not BOUND.holds(make_point(100.0, 1.0, concurrency=4))


def test_knee_is_the_highest_that_holds_below_the_first_that_does_not(make_point):
    """A higher load that happens to hold says nothing; the order of measuring does not matter."""
    low, middle, high = (make_point(rate, 50.0, rate=rate) for rate in (10.0, 20.0, 40.0))
    broken = make_point(30.0, 150.0, rate=30.0)
    closed = make_point(500.0, 1.0, concurrency=4)
    assert knee([high, broken, closed, middle, low], BOUND) is middle
    assert knee([low, middle, high], BOUND) is high


def test_no_knee_where_the_lowest_load_does_not_hold(make_point):
    """Nor where no load was offered."""
    assert (
        knee([make_point(10.0, 150.0, rate=10.0), make_point(20.0, 1.0, rate=20.0)], BOUND) is None
    )
    assert knee([make_point(10.0, 1.0, concurrency=1)], BOUND) is None


@pytest.mark.parametrize("true_knee", [3.0, 11.0, 49.0, 83.0, 104.0])
def test_sweep_closes_in_on_the_knee(make_point, true_knee):
    """Up the grid to the first that does not hold, then by halves, within the promised gap."""
    points = [make_point(100.0, 80.0, concurrency=64)]
    while (rate := next_rate(points, BOUND, 100.0)) is not None:
        points.append(make_point(rate, 50.0 if rate <= true_knee else 500.0, rate=rate))
        assert len(points) < 20
    found = knee(points, BOUND)
    assert found.load.calls_per_s <= true_knee <= found.load.calls_per_s + FINE * 100.0
    offered = [point.load.calls_per_s for point in points[1:]]
    assert offered[0] == GRID[0] * 100.0


def test_sweep_ends_above_the_capacity(make_point):
    """A server that holds everything is not asked for ever."""
    points = []
    while (rate := next_rate(points, BOUND, 200.0)) is not None:
        points.append(make_point(rate, 1.0, rate=rate))
    assert [point.load.calls_per_s for point in points] == [200.0 * share for share in GRID]
