"""Tests of the load generator with a clock and a server that the test controls."""

import asyncio
from itertools import pairwise, takewhile

import pytest

from imagemint.bench.counts import sum_counts
from imagemint.bench.generator import PAUSE_NS
from imagemint.bench.load import Closed, Open
from imagemint.bench.schedule import Purpose, draw_arrivals, make_generator
from imagemint.bench.target import CallFailed

SECOND = 1_000_000_000


def compute_intended(rate, seconds, seed=0):
    """Returns the times in seconds at which an open loop should call."""
    random = make_generator(seed, 0, Purpose.ARRIVALS)
    return list(takewhile(lambda at: at < seconds, draw_arrivals(rate, random)))


async def test_open_loop_shows_a_stalled_server(generate, clock, target):
    """An open loop continues to call, and each latency counts from the intended start."""
    target.free.clear()
    _, running = await generate(Open(10.0), duration_s=2.0)
    await clock.run_to(5 * SECOND)
    assert len(target.asked) == len(compute_intended(10.0, 2.0))
    target.free.set()
    share = await running
    waited = sorted(5.0 - at for at in compute_intended(10.0, 2.0))
    latency = share.tallies[0].latency
    assert len(latency) == len(waited)
    assert latency.compute_quantile_ms(1.0) == pytest.approx(1e3 * waited[-1], rel=1e-3)
    assert latency.compute_quantile_ms(0.01) == pytest.approx(1e3 * waited[0], rel=1e-3)
    # They arrived after the window, so they count as latencies and not as throughput.
    assert (share.tallies[0].images, share.tallies[0].asked_images) == (0, len(waited))
    assert share.effort.late.compute_quantile_ms(1.0) == 0


async def test_closed_loop_hides_a_stalled_server(generate, clock, target):
    """A closed loop makes one slow call per caller, which is why open loops exist."""
    target.free.clear()
    _, running = await generate(Closed(3), duration_s=2.0)
    await clock.run_to(5 * SECOND)
    target.free.set()
    latency = (await running).tallies[0].latency
    assert (len(latency), len(target.asked)) == (3, 3)
    assert latency.compute_quantile_ms(0.01) == pytest.approx(5e3, rel=1e-3)


async def test_late_call_is_reported_and_counted(generate, clock):
    """A late client reports its lateness, and the latency includes it."""
    first, *others = compute_intended(1.0, 30.0)
    _, running = await generate(Open(1.0), duration_s=30.0)
    await clock.run_to(round(first * SECOND) - 1)
    await clock.jump_to(29 * SECOND)
    await clock.run_to(30 * SECOND)
    share = await running
    late = [29.0 - at for at in (first, *others) if at < 29]
    assert share.effort.late.compute_quantile_ms(1.0) == pytest.approx(1e3 * max(late), rel=1e-3)
    assert share.tallies[0].latency.compute_quantile_ms(1.0) == pytest.approx(
        1e3 * max(late), rel=1e-3
    )


async def test_warm_up_is_not_counted(generate, clock, target):
    """Calls before the window count neither as throughput nor as latencies."""
    target.takes_ns = 3 * SECOND // 10
    _, running = await generate(Closed(2), warmup_s=1.0, duration_s=2.0)
    await clock.run_to(SECOND)
    before = len(target.asked)
    target.takes_ns = SECOND // 5
    await clock.run_to(4 * SECOND)
    (tally,) = (await running).tallies
    # Two callers make five calls per second from 1.2 s on. Calls of the warm-up arrive then.
    assert tally.asked_calls == len(target.asked) - before == len(tally.latency) == 18
    assert tally.latency.compute_quantile_ms(1.0) == pytest.approx(200, rel=1e-3)
    assert (tally.calls, tally.images) == (20, 20)


async def test_number_of_images_ends_a_run(generate, clock, target):
    """Exactly this many images are requested. The last response ends the window."""
    target.takes_ns = SECOND // 10
    _, running = await generate(Closed(4), "count=5", images=60)
    await clock.run_to(10 * SECOND)
    share = await running
    assert len(target.asked) == 12
    assert (share.tallies[0].images, share.elapsed_s) == (60, pytest.approx(0.3))


async def test_kinds_are_counted_separately(generate, clock, target):
    """Each kind has its counts and its images, and their sum is the mix."""
    target.takes_ns = SECOND // 100
    _, running = await generate(Closed(4), "count=1:3, count=10:1", duration_s=1.0)
    await clock.run_to(2 * SECOND)
    small, large = (await running).tallies
    assert small.images == small.calls
    assert large.images == 10 * large.calls
    assert small.calls / (small.calls + large.calls) == pytest.approx(0.75, abs=0.06)
    assert sum_counts([small, large]).images == small.images + large.images
    assert len({seed for _, _, seed, _ in target.asked}) == 2


async def test_refusals_and_failures_are_counted_separately(generate, clock, target, busy):
    """Calls are counted by code. A refused caller waits, and its latency does not count."""
    target.takes_ns = SECOND // 10
    target.faults = [busy, CallFailed("UNAVAILABLE", "away"), busy]
    _, running = await generate(Closed(1), duration_s=1.0)
    await clock.run_to(2 * SECOND)
    (tally,) = (await running).tallies
    assert (tally.shed, tally.failed) == ({"RESOURCE_EXHAUSTED": 2}, {"UNAVAILABLE": 1})
    assert tally.example == "RESOURCE_EXHAUSTED: queue full"
    assert tally.asked_calls == 3 + len(tally.latency)
    gaps_ns = [after - before for before, after in pairwise(target.moments_ns)]
    assert gaps_ns[:3] == [target.takes_ns + PAUSE_NS] * 3
    assert set(gaps_ns[3:]) == {target.takes_ns}


async def test_connections_are_used_in_turn(generate, clock, target):
    """Each connection has its share of the callers or arrivals."""
    for load in (Closed(4), Open(100.0)):
        target.asked.clear()
        target.opened = 0
        clock.now = 0
        _, running = await generate(load, images=40, connections=2)
        await clock.run_to(10 * SECOND)
        await running
        used = [number for number, *_ in target.asked]
        assert used.count(1) == used.count(2) == 20


async def test_stream_is_counted_by_chunks(generate, clock, target):
    """Each chunk has a latency, and the first one also counts separately.

    The window cuts the stream.
    """
    target.takes_ns = SECOND // 4
    _, running = await generate(Closed(1), "count=1000 stream chunk=10", duration_s=2.0)
    await clock.run_to(4 * SECOND)
    (tally,) = (await running).tallies
    assert (tally.cut_streams, tally.calls, target.closed_streams) == (1, 0, 1)
    assert tally.first_chunk.compute_quantile_ms(1.0) == pytest.approx(250, rel=1e-3)
    assert tally.latency.compute_quantile_ms(0.01) == pytest.approx(250, rel=1e-3)
    assert tally.images == 10 * len(tally.latency) == 70


async def test_complete_stream_is_one_call(generate, clock, target):
    """A stream that ends in the window counts as a call."""
    target.takes_ns = SECOND // 4
    _, running = await generate(Closed(1), "count=25 stream chunk=10", images=50)
    await clock.run_to(4 * SECOND)
    (tally,) = (await running).tallies
    assert (tally.calls, tally.images, len(tally.latency), len(tally.first_chunk)) == (2, 50, 6, 2)


async def test_changed_responses_are_detected(generate, clock, target):
    """A repeated request must give the same response."""
    generator, running = await generate(Closed(2), images=20, verify=True)
    await clock.run_to(SECOND)
    await running
    assert await generator.verify() == (await generator.verify())
    assert (await generator.verify()).different == 0
    target.version += 1
    found = await generator.verify()
    assert (found.compared, found.different) == (20, 20)


async def test_greeting_opens_every_connection(generate, clock, target):
    """No connection is opened during the measurement. A missing server is an error at once."""
    generator, running = await generate(Closed(1), images=1, connections=3)
    await running
    target.asked.clear()
    await generator.open_connections()
    assert [number for number, *_ in target.asked] == [1, 2, 3]
    target.faults = [CallFailed("UNAVAILABLE")]
    with pytest.raises(CallFailed, match="UNAVAILABLE"):
        await generator.open_connections()


async def test_cancelled_load_ends(generate, clock, target):
    """Cancellation leaves no caller running."""
    target.free.clear()
    _, running = await generate(Closed(3), duration_s=1.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
