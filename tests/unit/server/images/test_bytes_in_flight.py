"""The budget of bytes in flight: shares, order, and what becomes of those who leave."""

import asyncio

import pytest

from imagemint.server.images.bytes_in_flight import Budget


@pytest.fixture
def budget():
    """A budget of 100 bytes."""
    return Budget(100)


def most(budget, caller):
    """How much a caller gets, byte by byte."""
    taken = 0
    while budget.take(caller, 1):
        taken += 1
    return taken


def test_caller_gets_as_much_as_it_leaves(budget):
    """One alone half, the next a half of the rest, so that there is always room for others."""
    assert most(budget, "a") == 50
    assert most(budget, "b") == 25
    assert budget.held_bytes == 75
    assert budget.take("c", 25)


def test_large_piece_counts_before_it_is_taken(budget):
    """What is left free is what remains after it: 30 of 70 would leave 40 beside 60."""
    assert budget.take("a", 30)
    assert not budget.take("a", 30)
    assert budget.take("a", 20)


def test_first_piece_may_be_larger_than_a_share(budget):
    """A caller that holds nothing gets what is free; with nothing held, whatever it wants."""
    assert budget.take("a", 90)
    assert not budget.take("a", 1)
    assert budget.take("b", 10)
    assert not budget.take("c", 1)
    budget.give("a", 90)
    budget.give("b", 10)
    assert budget.take("c", 1_000)
    assert not budget.take("a", 1)


async def waiting(budget, caller, size, order):
    """A task that waits, and then notes its name; begun when this returns."""

    async def wait():
        await budget.wait(caller, size)
        order.append((caller, size))

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return task


async def test_requests_of_a_caller_stay_in_order(budget):
    """A small piece does not pass a large one of the same caller, nor does one that cannot wait."""
    order = []
    assert budget.take("a", 50)
    tasks = [await waiting(budget, "a", size, order) for size in (40, 1)]
    assert not budget.take("a", 1)
    assert budget.take("b", 10)
    budget.give("a", 50)
    await asyncio.gather(*tasks)
    assert order == [("a", 40), ("a", 1)]


async def test_one_that_waits_does_not_hold_up_others(budget):
    """Who has had its share waits; another caller is let in at once."""
    order = []
    assert budget.take("a", 50)
    task = await waiting(budget, "a", 50, order)
    await budget.wait("b", 20)
    assert not order
    task.cancel()
    await asyncio.wait({task})
    assert budget.held_bytes == 70


@pytest.mark.parametrize("granted_first", [True, False], ids=["granted", "cancelled"])
async def test_one_that_leaves_while_it_is_let_in_holds_nothing(budget, granted_first):
    """Grant and cancellation in one turn of the loop, in either order; the next one is let in."""
    order = []
    assert budget.take("a", 50)
    leaving = await waiting(budget, "a", 40, order)
    staying = await waiting(budget, "a", 10, order)
    steps = [lambda: budget.give("a", 50), leaving.cancel]
    for step in steps if granted_first else reversed(steps):
        step()
    await asyncio.wait({leaving, staying})
    assert leaving.cancelled()
    assert order == [("a", 10)]
    assert budget.held_bytes == 10
    budget.give("a", 10)
    assert budget.held_bytes == 0
