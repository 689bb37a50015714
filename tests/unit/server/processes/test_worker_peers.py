"""Tests of the worker's end of the channel: questions and cancelled callers."""

import asyncio

import pytest

from imagemint.server.processes.messages import Answers, Begin, Drain
from imagemint.server.processes.worker import WorkerPeers
from imagemint.server.settings import ServeSettings


class Line:
    """A channel whose other end is the test."""

    def __init__(self):
        self.sent = []
        self.said = asyncio.Queue()

    def send(self, message):
        """Records a message to the supervisor."""
        self.sent.append(message)

    async def receive(self):
        """Returns the next message of the test, or None at the end."""
        return await self.said.get()


@pytest.mark.parametrize("last", [Drain(), None])
async def test_caller_may_leave_while_the_replies_arrive(last):
    """The worker still receives the next message, or the end of the channel."""
    line = Line()
    peers = WorkerPeers(Begin(0, ServeSettings(), 0), line)
    asking = asyncio.create_task(peers.ask("statistics"))
    await asyncio.sleep(0)
    listening = asyncio.create_task(peers.listen())
    await asyncio.sleep(0)
    # Both arrive in one iteration of the loop, the answers first.
    if last is not None:
        line.said.put_nowait(Answers(line.sent[0].id))
    line.said.put_nowait(last)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(10):
        await peers.drain.wait()
    assert peers.orphaned is (last is None)
    if last is not None:
        line.said.put_nowait(None)
    await listening
