"""When the client is the limit."""

import pytest

from imagemint.bench.client_cost import BUSY, CostMeter, limit


@pytest.mark.parametrize(
    ("effort", "p99_ms", "word"),
    [
        ({"busy": BUSY}, 10.0, "event loop was busy 90%"),
        ({"late_ms": 30.0}, 40.0, "30.0 ms late"),
        ({"lag_ms": 6.0}, 11.0, "6.0 ms late"),
        ({"busy": 1.0}, None, "event loop was busy 100%"),
    ],
)
def test_limit_is_told(make_effort, effort, p99_ms, word):
    """Busy, late or lagging, with the figure."""
    assert word in limit(make_effort(**effort), p99_ms)


@pytest.mark.parametrize(
    ("effort", "p99_ms"),
    [
        ({"busy": 0.89}, 10.0),
        ({"late_ms": 30.0}, 61.0),
        ({"lag_ms": 4.9, "late_ms": 4.9}, 1.0),
        ({"lag_ms": 60.0}, None),
    ],
)
def test_small_part_is_no_limit(make_effort, effort, p99_ms):
    """Less than half of the latency, or too little to matter, or nothing to be part of."""
    assert limit(make_effort(**effort), p99_ms) is None


async def test_watch_counts_from_open_to_close():
    """CPU time of this process and of this thread; calls as it was told."""
    watch = CostMeter()
    assert not watch.is_open
    watch.open()
    watch.calls += 3
    sum(number * number for number in range(200_000))
    effort = watch.close()
    assert not watch.is_open
    assert effort.loop_cpu_s > 0
    assert effort.cpu_s > 0
    assert effort.cpu_ms_per_call == pytest.approx(effort.cpu_s * 1e3 / 3)
    assert effort.busy == effort.loop_cpu_s / effort.wall_s


def test_watch_that_was_never_opened_is_a_bug():
    """It has nothing to tell."""
    with pytest.raises(RuntimeError):
        CostMeter().close()
