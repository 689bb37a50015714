"""The knee: how much load a server takes before callers notice.

The knee is the *usable capacity* of R. Jain ("The Art of Computer Systems Performance Analysis",
1991, section 3.3): the highest throughput within a limit on the response time. It is measured as in
the server scenario of MLPerf Inference (Reddi et al., ISCA 2020): Poisson arrivals, and a bound on
the 99th percentile of the latency.

An offered load *holds* if

- the 99th percentile of the latency, from the intended start, is at most the bound, and
- the images that arrive are at least `ACHIEVED` of those offered in the same window. Both come from
  one draw of the Poisson process, so the tolerance is for calls at the edges of the window, and not
  for noise.

Shed and failed calls bring no images, so the second condition covers them. The knee is the highest
offered load that holds, among those below the lowest one that does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imagemint.bench.load import Open
from imagemint.bench.point import Point

ACHIEVED = 0.97
# Shares of the capacity, as a closed loop found it, that a sweep offers first.
GRID = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
# A sweep halves the gap around the knee until it is at most this share of the capacity.
FINE = 0.025


@dataclass(frozen=True, slots=True)
class Bound:
    """The conditions for a load to hold."""

    p99_ms: float
    achieved: float = ACHIEVED

    def holds(self, point: Point) -> bool:
        """Returns whether the load of an open loop holds. A closed loop never holds."""
        offered = point.offered_images_per_s
        p99_ms = point.sum.latency.compute_quantile_ms(0.99)
        if not offered or p99_ms is None:
            return False
        return p99_ms <= self.p99_ms and point.images_per_s >= self.achieved * offered


def find_knee(points: Sequence[Point], bound: Bound) -> Point | None:
    """Returns the knee; None if the lowest load does not hold, or there is no open loop."""
    found = None
    for point in sorted(points, key=_get_rate):
        if not _get_rate(point):
            continue
        if not bound.holds(point):
            break
        found = point
    return found


def choose_next_rate(points: Sequence[Point], bound: Bound, capacity: float) -> float | None:
    """Returns the rate that a sweep offers next, in calls per second; None when it is done.

    A sweep follows the grid upwards to the first load that does not hold. Then it halves the gap
    between that load and the one before, until the gap is small enough.

    Args:
        points: the points measured so far.
        bound: the conditions for a load to hold.
        capacity: calls per second in a closed loop of many callers.
    """
    held = [0.0] + [_get_rate(point) for point in points if _get_rate(point) and bound.holds(point)]
    broken = [_get_rate(point) for point in points if _get_rate(point) and not bound.holds(point)]
    if not broken:
        ahead = (share * capacity for share in GRID)
        return next((rate for rate in ahead if rate > max(held) * (1 + 1e-9)), None)
    low = max((rate for rate in held if rate < min(broken)), default=0.0)
    high = min(broken)
    return (low + high) / 2 if high - low > FINE * capacity else None


def _get_rate(point: Point) -> float:
    """Returns the offered calls per second; 0 in a closed loop."""
    return point.load.calls_per_s if isinstance(point.load, Open) else 0.0
