"""Tests of imagemint.bench.client_cost: when the client is the limit."""

import pytest

from imagemint.bench.client_cost import BUSY, CostMeter, explain_limit


@pytest.mark.parametrize(
    ("effort", "p99_ms", "word"),
    [
        ({"busy": BUSY}, 10.0, "event loop was busy 90%"),
        ({"late_ms": 30.0}, 40.0, "30.0 ms late"),
        ({"lag_ms": 6.0}, 11.0, "6.0 ms late"),
        ({"busy": 1.0}, None, "event loop was busy 100%"),
    ],
)
def test_limit_is_explained(make_effort, effort, p99_ms, word):
    """The reason is a busy event loop, late calls or lag, with the measurement."""
    assert word in explain_limit(make_effort(**effort), p99_ms)


@pytest.mark.parametrize(
    ("effort", "p99_ms"),
    [
        ({"busy": 0.89}, 10.0),
        ({"late_ms": 30.0}, 61.0),
        ({"lag_ms": 4.9, "late_ms": 4.9}, 1.0),
        ({"lag_ms": 60.0}, None),
    ],
)
def test_small_share_is_no_limit(make_effort, effort, p99_ms):
    """Less than half of the latency, or a negligible time, is no limit."""
    assert explain_limit(make_effort(**effort), p99_ms) is None


async def test_meter_counts_from_open_to_close():
    """The meter has the CPU time of the process and thread, and the calls."""
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


def test_meter_must_be_opened():
    """Closing a meter that is not open raises RuntimeError."""
    with pytest.raises(RuntimeError):
        CostMeter().close()
