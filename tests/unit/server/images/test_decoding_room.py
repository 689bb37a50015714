"""Tests of the memory of decoding: its order, its limit and cancelled calls."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from held_backend import WAIT_S

from imagemint.server.images.decoding_room import DecodingRoom


class HeldWork:
    """Work that begins on a thread and ends when the test permits it."""

    def __init__(self):
        self.begun = threading.Event()
        self.ends = threading.Event()

    def __call__(self):
        """Waits for permission."""
        self.begun.set()
        assert self.ends.wait(WAIT_S), "held for ever"
        return self


@pytest.fixture
def executor():
    """More threads than there is work."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def room(executor):
    """Room for 100 bytes."""
    return DecodingRoom(executor, 100)


async def start(room, size):
    """Starts work that waits until it has its bytes, and then runs until `ends` is set."""
    work = HeldWork()
    task = asyncio.create_task(room.run(size, work))
    await asyncio.sleep(0)
    return work, task


async def begins(work):
    """Waits until work has begun."""
    assert await asyncio.to_thread(work.begun.wait, WAIT_S)


async def test_work_within_the_limit_runs_at_the_same_time(room):
    """The result is that of the work, and its bytes are released."""
    started = [await start(room, 50) for _ in range(2)]
    for work, _ in started:
        await begins(work)
    assert room.held_bytes == 100
    for work, task in started:
        work.ends.set()
        assert await task is work
    while room.held_bytes:  # noqa: ASYNC110 - a thread releases them
        await asyncio.sleep(0)


async def test_work_beyond_the_limit_waits_in_order(room):
    """A small piece does not overtake a large one, which would otherwise wait for ever."""
    first, first_task = await start(room, 60)
    large, large_task = await start(room, 1_000)
    small, small_task = await start(room, 1)
    await begins(first)
    assert room.held_bytes == 60
    first.ends.set()
    await first_task
    await begins(large)
    assert not small.begun.is_set()
    assert room.held_bytes == 100
    large.ends.set()
    await large_task
    await begins(small)
    small.ends.set()
    await small_task


async def test_cancelled_call_holds_its_bytes_until_the_thread_has_ended(room):
    """A thread goes on after the cancellation of the call that waits for it."""
    first, first_task = await start(room, 60)
    await begins(first)
    first_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first_task
    second, second_task = await start(room, 60)
    assert room.held_bytes == 60
    first.ends.set()
    await begins(second)
    second.ends.set()
    await second_task


async def test_cancelled_call_gives_up_its_place(room):
    """Work behind a call that left does not wait for it."""
    first, first_task = await start(room, 60)
    _, large_task = await start(room, 100)
    small, small_task = await start(room, 40)
    large_task.cancel()
    await begins(small)
    for work, task in ((first, first_task), (small, small_task)):
        work.ends.set()
        await task
    while room.held_bytes:  # noqa: ASYNC110 - a thread releases them
        await asyncio.sleep(0)


async def test_threads_that_are_shut_down_hold_nothing(executor):
    """The error of the threads is raised."""
    room = DecodingRoom(executor, 100)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        await room.run(50, HeldWork())
    assert room.held_bytes == 0
