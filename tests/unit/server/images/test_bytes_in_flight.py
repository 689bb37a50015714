"""Tests of the budget of bytes in flight: shares, order and cancelled callers."""

import asyncio

import pytest

from imagemint.server.images.bytes_in_flight import Budget


@pytest.fixture
def budget():
    """A budget of 100 bytes."""
    return Budget(100)


def take_all(budget, caller):
    """Returns how many bytes a caller gets, one at a time."""
    taken = 0
    while budget.take(caller, 1):
        taken += 1
    return taken


def test_caller_may_hold_as_much_as_it_leaves_free(budget):
    """The first caller gets a half and the next a half of the rest, so others always have room."""
    assert take_all(budget, "a") == 50
    assert take_all(budget, "b") == 25
    assert budget.held_bytes == 75
    assert budget.take("c", 25)


def test_large_piece_counts_before_it_is_taken(budget):
    """The free bytes are those after the piece: 30 of 70 would leave 40 beside 60."""
    assert budget.take("a", 30)
    assert not budget.take("a", 30)
    assert budget.take("a", 20)


def test_first_piece_may_exceed_a_share(budget):
    """A caller without bytes gets what is free, and any amount if the whole budget is free."""
    assert budget.take("a", 90)
    assert not budget.take("a", 1)
    assert budget.take("b", 10)
    assert not budget.take("c", 1)
    budget.give("a", 90)
    budget.give("b", 10)
    assert budget.take("c", 1_000)
    assert not budget.take("a", 1)


async def start_waiting(budget, caller, size, order):
    """Starts a task that waits for bytes and then records the caller and the size."""

    async def wait():
        await budget.wait(caller, size)
        order.append((caller, size))

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return task


async def test_requests_of_a_caller_stay_in_order(budget):
    """A small piece does not overtake a larger one of the same caller that waits."""
    order = []
    assert budget.take("a", 50)
    tasks = [await start_waiting(budget, "a", size, order) for size in (40, 1)]
    assert not budget.take("a", 1)
    assert budget.take("b", 10)
    budget.give("a", 50)
    await asyncio.gather(*tasks)
    assert order == [("a", 40), ("a", 1)]


async def test_waiting_caller_does_not_block_others(budget):
    """A caller that has used its share waits, while another one gets its bytes at once."""
    order = []
    assert budget.take("a", 50)
    task = await start_waiting(budget, "a", 50, order)
    await budget.wait("b", 20)
    assert not order
    task.cancel()
    await asyncio.wait({task})
    assert budget.held_bytes == 70


@pytest.mark.parametrize("granted_first", [True, False], ids=["granted", "cancelled"])
async def test_cancelled_caller_holds_nothing(budget, granted_first):
    """If a caller is cancelled while it gets its bytes, the next caller gets them."""
    order = []
    assert budget.take("a", 50)
    leaving = await start_waiting(budget, "a", 40, order)
    staying = await start_waiting(budget, "a", 10, order)
    steps = [lambda: budget.give("a", 50), leaving.cancel]
    for step in steps if granted_first else reversed(steps):
        step()
    await asyncio.wait({leaving, staying})
    assert leaving.cancelled()
    assert order == [("a", 10)]
    assert budget.held_bytes == 10
    budget.give("a", 10)
    assert budget.held_bytes == 0
