"""Tests of the plot of a run."""

import pytest
from PIL import Image

from imagemint.bench.plot import draw
from imagemint.bench.server_metrics import ServerMetrics


@pytest.mark.parametrize(
    ("rates", "callers", "batches"),
    [((10.0, 20.0), (), {}), ((), (1, 4), {}), ((10.0,), (4,), {"1.0": 3, "2.0": 0})],
)
def test_panels_follow_the_measurements(make_point, tmp_path, rates, callers, batches):
    """Latency is always shown, throughput for closed loops, and batches with /metrics."""
    points = [make_point(rate, 5.0, rate=rate) for rate in rates]
    points += [make_point(10.0 * caller, 5.0, concurrency=caller) for caller in callers]
    points[0].__dict__["server"] = ServerMetrics(batches, 0.0)
    draw(tmp_path / "run.png", points, points[0] if rates else None)
    with Image.open(tmp_path / "run.png") as picture:
        assert picture.size == (500 * (1 + bool(callers) + bool(batches)), 400)
