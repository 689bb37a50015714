"""A worker's end of the channel: questions, and those who leave before the answers come."""

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
        """Takes what the supervisor would be told."""
        self.sent.append(message)

    async def receive(self):
        """Gives what the test says next; None for the end."""
        return await self.said.get()


@pytest.mark.parametrize("last", [Drain(), None])
async def test_caller_who_leaves_as_the_answers_come(last):
    """He disturbs nobody: the worker still hears that it is to leave, or that it is alone."""
    line = Line()
    peers = WorkerPeers(Begin(0, ServeSettings(), 0), line)
    asking = asyncio.create_task(peers.ask("statistics"))
    await asyncio.sleep(0)
    listening = asyncio.create_task(peers.listen())
    await asyncio.sleep(0)
    # In one turn of the loop, and the answers first.
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
