"""Tests of the statistics of a version, alone and as the batcher updates them."""

import json

import pytest

from imagemint.engine.errors import BackendFailed, DeadlinePassed, QueueFull
from imagemint.server.telemetry.statistics import (
    Account,
    Phases,
    Statistics,
    Sums,
    add_sums,
    dump_sums,
    parse_sums,
)


def list_phases(sums):
    """Returns the tallies of a request's phases."""
    return (sums.queue, sums.input, sums.inference, sums.output)


def test_phases_add_up_to_the_time_of_a_request():
    """Time that its batches do not account for is queue time."""
    statistics = Statistics()
    statistics.add_batch(4, Phases(10, 200, 5), [Account(1_000, Phases(10, 200, 5))])
    sums = statistics.copy_sums()
    assert [tally.ns for tally in list_phases(sums)] == [785, 10, 200, 5]
    assert (sums.success.count, sums.success.ns) == (1, 1_000)


def test_phases_of_parallel_batches_do_not_exceed_the_time():
    """Two parallel batches may take longer in sum than the request. The phases still add up."""
    statistics = Statistics()
    statistics.add_batch(8, Phases(10, 200, 5), [Account(250, Phases(40, 400, 10))])
    sums = statistics.copy_sums()
    assert [tally.ns for tally in list_phases(sums)] == [0, 0, 250, 0]
    assert sums.success.ns == 250


def test_statistics_of_workers_add_up():
    """Counts, times and sizes are summed, and the last batch is the latest one of all workers."""
    workers = []
    for images, calls in ((4, 1), (8, 2)):
        statistics = Statistics()
        statistics.add_batch(4, Phases(1, 2, 3), [])
        statistics.add_batch(images, Phases(1, 2, 3), calls * [Account(100, Phases(1, 2, 3))])
        statistics.add_failure(50)
        workers.append(statistics.copy_sums())
    workers[0].last_ms += 1_000
    whole = add_sums(workers)
    assert (whole.success.count, whole.success.ns) == (3, 300)
    assert [tally.ns for tally in list_phases(whole)] == [282, 3, 6, 9]
    assert (whole.fail.count, whole.fail.ns) == (2, 100)
    assert {size: passes.output.ns for size, passes in whole.passes.items()} == {4: 9, 8: 3}
    assert (whole.images, whole.executions) == (20, 4)
    assert whole.last_ms == workers[0].last_ms
    assert add_sums([]) == Sums()


def test_statistics_are_sent_as_json():
    """A worker sends its statistics as JSON to the worker that asks for them."""
    statistics = Statistics()
    statistics.add_batch(8, Phases(1, 2, 3), [Account(100, Phases(1, 2, 3))])
    sums = {("tiny", 1): statistics.copy_sums(), ("tiny", 2): Sums()}
    assert parse_sums(json.loads(json.dumps(dump_sums(sums)))) == sums


def test_batches_are_counted_by_size():
    """The numbers of images and batches are sums over the sizes."""
    statistics = Statistics()
    for images in (1, 8, 8):
        statistics.add_batch(images, Phases(1, 2, 3), [])
    sums = statistics.copy_sums()
    assert sums.images == 17
    assert sums.executions == 3
    assert (sums.passes[8].inference.count, sums.passes[8].inference.ns) == (2, 4)
    assert (sums.passes[8].input.ns, sums.passes[8].output.ns) == (2, 6)


def test_statistics_are_returned_as_a_copy():
    """A returned value does not change when more requests are counted."""
    statistics = Statistics()
    statistics.add_batch(1, Phases(1, 2, 3), [])
    before = statistics.copy_sums()
    statistics.add_batch(1, Phases(1, 2, 3), [Account(9, Phases(1, 2, 3))])
    statistics.add_failure(7)
    assert (before.images, before.success.count, before.fail.count) == (1, 0, 0)


async def test_requests_of_one_batch_are_counted(held, new_batcher, new_job, backend):
    """Three jobs in one batch are three requests, one execution and the sum of their images."""
    batcher = new_batcher()
    first = await held(batcher)
    jobs = [new_job(tag, count) for tag, count in ((1, 1), (2, 2), (3, 4))]
    for job in jobs:
        batcher.submit(job)
    backend.release()
    for job in (first, *jobs):
        await job.done
    sums = batcher.statistics.copy_sums()
    assert sums.success.count == 4
    assert {size: each.inference.count for size, each in sums.passes.items()} == {1: 1, 7: 1}
    assert (sums.images, sums.executions) == (8, 2)
    assert [tally.count for tally in list_phases(sums)] == [4] * 4
    assert sum(tally.ns for tally in list_phases(sums)) == sums.success.ns
    assert sums.queue.ns > 0
    assert sums.inference.ns > 0
    assert sums.last_ms > 0
    assert sums.fail.count == 0


async def test_failed_requests_are_counted(held, new_batcher, new_job, backend):
    """A full queue, a passed deadline and a failing backend are one failure each."""
    batcher = new_batcher(max_queue_images=2)
    first = await held(batcher)
    with pytest.raises(QueueFull):
        batcher.submit(new_job(1, 3))
    late, broken = new_job(2, 1, deadline=0.0), new_job(3, 1)
    batcher.submit(late)
    batcher.submit(broken)
    backend.failure = RuntimeError("no")
    backend.release()
    with pytest.raises(DeadlinePassed):
        await late.done
    for job in (first, broken):
        with pytest.raises(BackendFailed):
            await job.done
    sums = batcher.statistics.copy_sums()
    assert (sums.fail.count, sums.success.count, sums.executions) == (4, 0, 0)
    assert sums.fail.ns > 0


async def test_dropped_request_is_not_counted(held, new_batcher, new_job, backend):
    """A job that is dropped is neither a success nor a failure."""
    batcher = new_batcher()
    first = await held(batcher)
    gone = new_job(1, 1)
    batcher.submit(gone)
    batcher.drop(gone)
    backend.release()
    await first.done
    sums = batcher.statistics.copy_sums()
    assert (sums.success.count, sums.fail.count) == (1, 0)
