"""Deadlines: everyone's own moment, from one timer."""

import asyncio

import pytest

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire.deadlines import Deadlines
from imagemint.client.bench.wire.exchange import UnaryExchange
from imagemint.client.bench.wire.frames import ErrorCode
from imagemint.client.bench.wire.headers import Head


class Waiting:
    """Knows whether its time is over."""

    def __init__(self):
        self.expired = asyncio.Event()

    def expire(self):
        """It is."""
        self.expired.set()


async def test_only_who_still_waits_expires():
    """The timer of one that is done serves the next."""
    deadlines = Deadlines(0.01)
    one, other = Waiting(), Waiting()
    deadlines.begin(one)
    deadlines.begin(other)
    deadlines.end(one)
    await other.expired.wait()
    assert not one.expired.is_set()
    deadlines.begin(one)  # and after all are done, a new one is set
    await one.expired.wait()


async def test_closed_deadlines_expire_nobody():
    """Nor do they keep the event loop waiting."""
    deadlines, waiting = Deadlines(0.0), Waiting()
    deadlines.begin(waiting)
    deadlines.close()
    await asyncio.sleep(0.001)
    assert not waiting.expired.is_set()


@pytest.mark.parametrize(("timeout_s", "code"), [(0.0, "DEADLINE_EXCEEDED"), (9.0, "CANCELLED")])
async def test_server_may_notice_first(timeout_s, code):
    """It resets an overdue call as if somebody had cancelled it."""
    future = asyncio.get_running_loop().create_future()
    exchange = UnaryExchange(Head([]), b"", Deadlines(timeout_s), future)
    exchange.on_reset(ErrorCode.CANCEL)
    with pytest.raises(CallFailed) as found:
        await future
    assert found.value.code == code
