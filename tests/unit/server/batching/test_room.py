"""Room in the queue: first come, first served, and the shares of streams and of HIGH jobs."""

import asyncio

import pytest

from imagemint.engine.errors import Draining, QueueFull
from imagemint.server.batching import Priority


@pytest.fixture
async def wait_for_room():
    """Begins to wait for room with a job, as a stream does; returns the task."""
    tasks = []

    async def begin(batcher, job):
        tasks.append(asyncio.create_task(batcher.submit_when_room(job)))
        await asyncio.sleep(0)  # the task runs up to its wait
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()


async def settled():
    """Lets every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def refused(batcher, job):
    """Whether a single call's job is refused for want of room."""
    try:
        batcher.submit(job)
    except QueueFull:
        return True
    return False


async def test_waiter_gets_room(backend, new_batcher, new_job, held, wait_for_room):
    """A job that leaves makes room for one that waits, and so does one that is computed."""
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


async def test_waiter_hears_of_the_end(backend, new_batcher, new_job, held, wait_for_room):
    """Jobs that wait for room when the batcher closes are refused, not forgotten."""
    batcher = new_batcher(max_queue_images=1)
    await held(batcher)
    batcher.submit(new_job(1, 1))
    waiting = [await wait_for_room(batcher, new_job(tag, 1)) for tag in (2, 3)]
    assert not batcher.close(timeout_s=0)
    backend.release()
    for each in waiting:
        with pytest.raises(Draining):
            await each


async def test_newcomer_does_not_overtake(new_batcher, new_job, held, wait_for_room):
    """Room that a stream waits for is not given to a single call, though it would fit."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    filling, last = new_job(1, 15), new_job(2, 3)
    batcher.submit(filling)
    batcher.submit(last)
    waiting = await wait_for_room(batcher, new_job(3, 4))
    assert refused(batcher, new_job(4, 1))
    batcher.drop(last)
    await waiting
    assert not refused(batcher, new_job(5, 1))
    assert refused(batcher, new_job(6, 1))


async def test_waiters_enter_in_order(new_batcher, new_job, held, wait_for_room):
    """A small chunk does not slip in before a larger one that has waited longer."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    filling = [new_job(tag, 6) for tag in (1, 2, 3)]
    for job in filling:
        batcher.submit(job)
    large = await wait_for_room(batcher, new_job(4, 8))
    small = await wait_for_room(batcher, new_job(5, 1))
    await settled()
    assert not small.done()
    batcher.drop(filling[0])
    await large
    await settled()
    assert not small.done()  # 6 + 6 + 8: full again
    batcher.drop(filling[1])
    await small


async def test_streams_fill_half(new_batcher, new_job, held, wait_for_room):
    """Any number of waiting streams leaves half of the queue to single calls."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    waiting = [await wait_for_room(batcher, new_job(tag, 4)) for tag in range(1, 9)]
    await settled()
    assert [each.done() for each in waiting] == [True] * 2 + [False] * 6
    # 8 are queued, and 2 more are claimed: half of 20.
    assert not refused(batcher, new_job(20, 10))
    assert refused(batcher, new_job(21, 1))


async def test_chunk_beyond_half_counts_as_half(new_batcher, new_job, held, wait_for_room):
    """A chunk as large as the queue enters into the half of streams, and singles keep theirs."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    other, single = new_job(1, 4), new_job(2, 8)
    await (await wait_for_room(batcher, other))
    large = await wait_for_room(batcher, new_job(3, 20))
    behind = await wait_for_room(batcher, new_job(4, 20))
    batcher.submit(single)
    assert not refused(batcher, new_job(5, 2))
    assert refused(batcher, new_job(6, 1))
    batcher.drop(other)
    await large
    await settled()
    assert not behind.done()
    assert refused(batcher, new_job(7, 1))
    batcher.drop(single)
    assert not refused(batcher, new_job(8, 8))
    assert refused(batcher, new_job(9, 1))


async def test_high_has_its_eighth(new_batcher, new_job, held, wait_for_room):
    """HIGH jobs, streamed or single, enter beside NORMAL ones that wait, into their own room."""
    batcher = new_batcher(max_queue_images=80)
    await held(batcher)
    batcher.submit(new_job(1, 80))
    normal = await wait_for_room(batcher, new_job(2, 30))
    high = new_job(3, 4, priority=Priority.HIGH)
    waiting = await wait_for_room(batcher, high)
    await settled()
    assert not normal.done()
    assert not waiting.done()  # the 30 that came first count as queued
    batcher.drop(next(iter(batcher._queue)))
    await normal
    await waiting
    batcher.submit(new_job(4, 46))
    assert refused(batcher, new_job(5, 1))
    assert not refused(batcher, new_job(6, 10, priority=Priority.HIGH))
    assert refused(batcher, new_job(7, 1, priority=Priority.HIGH))


async def test_waiter_that_leaves_frees_its_claim(new_batcher, new_job, held, wait_for_room):
    """Room that is claimed for a stream is for others again when its caller has left."""
    batcher = new_batcher(max_queue_images=20)
    await held(batcher)
    batcher.submit(new_job(1, 18))
    leaving = await wait_for_room(batcher, new_job(2, 8))
    behind = await wait_for_room(batcher, new_job(3, 1))
    assert refused(batcher, new_job(4, 1))
    leaving.cancel()
    await behind
    assert not refused(batcher, new_job(5, 1))


async def test_waiter_that_leaves_late_is_dropped(new_batcher, new_job, held, wait_for_room):
    """A caller who leaves in the turn in which his job gets room leaves nothing in the queue."""
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


async def test_room_passes_by_waiters_that_left(new_batcher, new_job, held, wait_for_room):
    """A caller who leaves in the turn before there is room does not get it; the next one does."""
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


async def test_reading_ahead_leaves_half(new_batcher, new_job, held, wait_for_room):
    """What a stream reads ahead fills at most half of the queue, and only if nothing waits."""
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
    """Beside single calls that fill the queue again and again, a stream has a quarter of it all."""
    batcher = new_batcher(max_queue_images=32)
    await held(batcher)
    chunk = new_job(1, 4)
    waiting = await wait_for_room(batcher, chunk)
    streamed = 0
    for _ in range(40):
        while not refused(batcher, new_job(2, 1)):
            """One more single call finds room."""
        backend.step()
        await backend.begun()
        streamed += [int(tag) for tag in backend.batches[-1].z[:, 0]].count(1)
        await settled()
        if waiting.done() and chunk.taken == chunk.count:
            chunk = new_job(1, 4)
            waiting = await wait_for_room(batcher, chunk)
    assert sum(backend.sizes) == 320
    assert streamed >= 40 * 8 / 4 / 2  # one chunk at a time: every second batch at least has 2
