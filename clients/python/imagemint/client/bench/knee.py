"""The knee: how much load a server takes before callers notice.

Here it is what R. Jain ("The Art of Computer Systems Performance Analysis", 1991, section 3.3)
calls *usable capacity*, the most that a system does within a limit on its response time, asked for
as MLPerf Inference asks for it in its server scenario (Reddi et al., ISCA 2020): Poisson arrivals,
and a bound on the 99th percentile of the latency.

An offered load *holds* if

- the 99th percentile of the latency, from the intended start, is at most the bound, and
- the images that arrived are at least `ACHIEVED` of those offered in the same window. Both are
  counted from one draw of the Poisson process, so the tolerance is not for its noise but for calls
  that straddle the edges of the window.

What was shed or failed did not arrive, so the second condition is about it too. The knee is the
highest offered load that was measured and holds, of those below the lowest that does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imagemint.client.bench.load import Open
from imagemint.client.bench.points import Point

ACHIEVED = 0.97
# Shares of the capacity, as a closed loop found it, that a sweep offers first.
GRID = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
# A sweep halves the gap around the knee until it is at most this share of the capacity.
FINE = 0.025


@dataclass(frozen=True, slots=True)
class Bound:
    """What a load must satisfy to hold."""

    p99_ms: float
    achieved: float = ACHIEVED

    def holds(self, point: Point) -> bool:
        """Whether the server took the load of an open loop. A closed loop never holds."""
        offered = point.offered_images_per_s
        p99_ms = point.sum.latency.quantile_ms(0.99)
        if not offered or p99_ms is None:
            return False
        return p99_ms <= self.p99_ms and point.images_per_s >= self.achieved * offered


def knee(points: Sequence[Point], bound: Bound) -> Point | None:
    """The point of the knee; None where the lowest load does not hold, or there is no open loop."""
    found = None
    for point in sorted(points, key=_rate):
        if not _rate(point):
            continue
        if not bound.holds(point):
            break
        found = point
    return found


def next_rate(points: Sequence[Point], bound: Bound, capacity: float) -> float | None:
    """The rate that a sweep should offer next, in calls a second; None when it is done.

    First the grid, upwards to the first load that does not hold; then halfway between that one and
    the one before it, until they are near enough.

    Args:
        points: what was measured so far.
        bound: what makes a load hold.
        capacity: calls a second in a closed loop of many callers.
    """
    held = [0.0] + [_rate(point) for point in points if _rate(point) and bound.holds(point)]
    broken = [_rate(point) for point in points if _rate(point) and not bound.holds(point)]
    if not broken:
        ahead = (share * capacity for share in GRID)
        return next((rate for rate in ahead if rate > max(held) * (1 + 1e-9)), None)
    low = max((rate for rate in held if rate < min(broken)), default=0.0)
    high = min(broken)
    return (low + high) / 2 if high - low > FINE * capacity else None


def _rate(point: Point) -> float:
    """Calls a second that were to be offered; 0 in a closed loop."""
    return point.load.calls_per_s if isinstance(point.load, Open) else 0.0
