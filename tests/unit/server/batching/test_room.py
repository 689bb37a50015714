"""Tests of room in the queue: first come, first served, and the shares of streams and HIGH jobs."""

import asyncio

import pytest

from imagemint.engine.errors import Draining, QueueFull
from imagemint.server.batching import Priority


@pytest.fixture
async def wait_for_room():
    """A function that starts a task that waits for room for a job, as a stream does."""
    tasks = []

    async def begin(batcher, job):
        tasks.append(asyncio.create_task(batcher.submit_when_room(job)))
        await asyncio.sleep(0)  # the task runs up to its wait
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()


async def settle():
    """Runs every task that can run."""
    for _ in range(5):
        await asyncio.sleep(0)


def is_refused(batcher, job):
    """Returns whether the job of a single call is refused because the queue is full."""
    try:
        batcher.submit(job)
    except QueueFull:
        return True
    return False


async def test_waiting_job_gets_room(backend, new_batcher, new_job, held, wait_for_room):
    """A job that is dropped or computed makes room for one that waits."""
    batcher = new_batcher(max_queue_images=10)
    await held(batcher)
    first, second, third = (new_job(tag, 10) for tag in (1, 2, 3))
    batcher.submit(first)
    waiting = [await wait_for_room(batcher, job) for job in (second, third)]
    assert not waiting[0].done()
    batcher.drop(first)
    await waiting[0]
    assert not waiting[1].done()
    backend.release()
    await waiting[1]
    await third.done


async def test_waiting_jobs_are_refused_at_close(
    backend, new_batcher, new_job, held, wait_for_room
):
    """Jobs that wait for room when the batcher closes raise Draining."""
    batcher = new_batcher(max_queue_images=1)
    await held(batcher)
    batcher.submit(new_job(1, 1))
    waiting = [await wait_for_room(batcher, new_job(tag, 1)) for tag in (2, 3)]
    assert not batcher.close(timeout_s=0)
    backend.release()
    for each in waiting:
        with pytest.raises(Draining):
            await each


async def test_new_call_does_not_overtake_a_stream(new_batcher, new_job, held, wait_for_room):
    """Room that a stream waits for is not given to a single call, even if it would fit."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    filling, last = new_job(1, 15), new_job(2, 3)
    batcher.submit(filling)
    batcher.submit(last)
    waiting = await wait_for_room(batcher, new_job(3, 4))
    assert is_refused(batcher, new_job(4, 1))
    batcher.drop(last)
    await waiting
    assert not is_refused(batcher, new_job(5, 1))
    assert is_refused(batcher, new_job(6, 1))


async def test_waiting_jobs_enter_in_order(new_batcher, new_job, held, wait_for_room):
    """A small chunk does not enter before a larger one that has waited longer."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    filling = [new_job(tag, 6) for tag in (1, 2, 3)]
    for job in filling:
        batcher.submit(job)
    large = await wait_for_room(batcher, new_job(4, 8))
    small = await wait_for_room(batcher, new_job(5, 1))
    await settle()
    assert not small.done()
    batcher.drop(filling[0])
    await large
    await settle()
    assert not small.done()  # 6 + 6 + 8: full again
    batcher.drop(filling[1])
    await small


async def test_streams_fill_half_of_the_queue(new_batcher, new_job, held, wait_for_room):
    """Any number of waiting streams leaves half of the queue to single calls."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    waiting = [await wait_for_room(batcher, new_job(tag, 4)) for tag in range(1, 9)]
    await settle()
    assert [each.done() for each in waiting] == [True] * 2 + [False] * 6
    # 8 images are queued, and 2 more are reserved: half of 20.
    assert not is_refused(batcher, new_job(20, 10))
    assert is_refused(batcher, new_job(21, 1))


async def test_large_chunk_counts_as_half(new_batcher, new_job, held, wait_for_room):
    """A chunk as large as the queue enters the half of streams. Single calls keep their half."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    other, single = new_job(1, 4), new_job(2, 8)
    await (await wait_for_room(batcher, other))
    large = await wait_for_room(batcher, new_job(3, 20))
    behind = await wait_for_room(batcher, new_job(4, 20))
    batcher.submit(single)
    assert not is_refused(batcher, new_job(5, 2))
    assert is_refused(batcher, new_job(6, 1))
    batcher.drop(other)
    await large
    await settle()
    assert not behind.done()
    assert is_refused(batcher, new_job(7, 1))
    batcher.drop(single)
    assert not is_refused(batcher, new_job(8, 8))
    assert is_refused(batcher, new_job(9, 1))


async def test_high_jobs_have_an_eighth(new_batcher, new_job, held, wait_for_room):
    """HIGH jobs enter their own room beside waiting NORMAL ones, both streams and single calls."""
    batcher = new_batcher(max_queue_images=80)
    await held(batcher)
    batcher.submit(new_job(1, 80))
    normal = await wait_for_room(batcher, new_job(2, 30))
    high = new_job(3, 4, priority=Priority.HIGH)
    waiting = await wait_for_room(batcher, high)
    await settle()
    assert not normal.done()
    assert not waiting.done()  # the 30 that came first count as queued
    batcher.drop(next(iter(batcher._queue)))
    await normal
    await waiting
    batcher.submit(new_job(4, 46))
    assert is_refused(batcher, new_job(5, 1))
    assert not is_refused(batcher, new_job(6, 10, priority=Priority.HIGH))
    assert is_refused(batcher, new_job(7, 1, priority=Priority.HIGH))


async def test_cancelled_wait_frees_its_room(new_batcher, new_job, held, wait_for_room):
    """Room that is reserved for a stream is free again when its caller has left."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    batcher.submit(new_job(1, 18))
    leaving = await wait_for_room(batcher, new_job(2, 8))
    behind = await wait_for_room(batcher, new_job(3, 1))
    assert is_refused(batcher, new_job(4, 1))
    leaving.cancel()
    await behind
    assert not is_refused(batcher, new_job(5, 1))


async def test_job_cancelled_while_it_enters_is_dropped(new_batcher, new_job, held, wait_for_room):
    """A caller that leaves while its job gets room leaves nothing in the queue."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    filling = new_job(1, 20)
    batcher.submit(filling)
    leaving = await wait_for_room(batcher, new_job(2, 8))
    batcher.drop(filling)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert batcher._queue.images == 0


async def test_cancelled_wait_is_skipped(new_batcher, new_job, held, wait_for_room):
    """A caller that leaves before there is room is skipped, and the next one gets it."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    filling = new_job(1, 20)
    batcher.submit(filling)
    leaving = await wait_for_room(batcher, new_job(2, 8))
    behind = await wait_for_room(batcher, new_job(3, 7))
    leaving.cancel()
    batcher.drop(filling)
    await behind
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert batcher._queue.images == 7
    assert not batcher._room


async def test_submit_ahead_fills_half_of_the_queue(new_batcher, new_job, held, wait_for_room):
    """A stream reads ahead into at most half of the queue, and only if nothing waits."""
    batcher = new_batcher(max_queue_images=10)
    await held(batcher)
    assert batcher.submit_ahead(new_job(1, 5))
    assert not batcher.submit_ahead(new_job(2, 1))
    single = new_job(3, 5)
    batcher.submit(single)
    await wait_for_room(batcher, new_job(4, 5))
    batcher.drop(single)
    assert not batcher.submit_ahead(new_job(5, 1, priority=Priority.HIGH))


async def test_stream_gets_its_share_of_an_overload(
    backend, new_batcher, new_job, held, wait_for_room
):
    """A stream gets a quarter beside single calls that fill the queue again and again."""
    batcher = new_batcher(max_queue_images=32)
    await held(batcher)
    chunk = new_job(1, 4)
    waiting = await wait_for_room(batcher, chunk)
    streamed = 0
    for _ in range(40):
        while not is_refused(batcher, new_job(2, 1)):
            """One more single call finds room."""
        backend.step()
        await backend.begun()
        streamed += [int(tag) for tag in backend.batches[-1].z[:, 0]].count(1)
        await settle()
        if waiting.done() and chunk.taken == chunk.count:
            chunk = new_job(1, 4)
            waiting = await wait_for_room(batcher, chunk)
    assert sum(backend.sizes) == 320
    assert streamed >= 40 * 8 / 4 / 2  # one chunk at a time: at least every second batch has 2
