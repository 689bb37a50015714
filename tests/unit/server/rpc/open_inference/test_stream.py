"""A stream of tensor requests: how far it reads ahead, and how it ends."""

import asyncio

import grpc
import pytest

from imagemint.engine.errors import Draining
from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.server.rpc.open_inference import stream as infer_stream
from imagemint.server.rpc.open_inference.stream import InferStream
from imagemint.server.rpc.submission import Gate

# What the module states: requests ahead of the answer that is being written.
MOST_AHEAD = 32


class Peer:
    """The context of a stream: gives requests without end or a few, takes answers when told to."""

    def __init__(self, requests=None):
        self.left = requests
        self.read_so_far = 0
        self.written = []
        self.writing = asyncio.Event()
        self.may_go = asyncio.Semaphore(0)

    async def read(self):
        """The next request; at the end of a bounded stream EOF."""
        if self.left is not None and self.read_so_far == self.left:
            return grpc.aio.EOF
        self.read_so_far += 1
        return pb.ModelInferRequest(id=str(self.read_so_far))

    async def write(self, answer):
        """Blocks as flow control does."""
        self.writing.set()
        await self.may_go.acquire()
        self.written.append(answer.infer_response.id)


async def echo(request, context, *, patient):
    """Answers at once."""
    del context, patient
    return pb.ModelStreamInferResponse(infer_response={"id": request.id})


async def settled():
    """Lets every task go as far as it can: one turn of the loop for each request and some."""
    for _ in range(10 * MOST_AHEAD):
        await asyncio.sleep(0)


async def test_slow_reader_bounds_the_reading():
    """Whoever takes no answers has no more requests read."""
    peer = Peer()
    call = asyncio.create_task(InferStream(peer, echo, Gate()).run())
    await peer.writing.wait()
    await settled()
    assert peer.read_so_far == MOST_AHEAD
    peer.may_go.release()
    await settled()
    assert peer.read_so_far == MOST_AHEAD + 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_large_requests_bound_the_reading(monkeypatch):
    """Requests under way hold some bytes together, and at least one is under way."""
    monkeypatch.setattr(infer_stream, "_AHEAD_BYTES", 10_000)

    class Sender(Peer):
        async def read(self):
            request = await super().read()
            request.raw_input_contents.append(bytes(4_000 if self.read_so_far < 6 else 20_000))
            return request

    peer, answered = Sender(), []

    async def answering(request, context, *, patient):
        answered.append(request.id)
        return await echo(request, context, patient=patient)

    call = asyncio.create_task(InferStream(peer, answering, Gate()).run())
    await settled()
    assert answered == ["1", "2"]
    assert peer.read_so_far == 3  # which waits
    for _ in range(7):
        peer.may_go.release()
        await settled()
    assert peer.written == answered[:7] == [str(i) for i in range(1, 8)]
    assert len(answered) == 8  # each larger than all that may be under way together
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_stream_ends_after_the_last_answer():
    """End of requests, all answers in order, and a normal return."""
    peer = Peer(requests=100)
    for _ in range(100):
        peer.may_go.release()
    await InferStream(peer, echo, Gate()).run()
    assert peer.written == [str(i) for i in range(1, 101)]


async def test_dismissed_stream_goes_on_until_the_grace_is_over():
    """A client who asks on is answered; at the end nothing that was taken is lost."""
    peer, gate = Peer(), Gate()
    stream = InferStream(peer, echo, gate)
    call = asyncio.create_task(stream.run())
    await peer.writing.wait()
    await settled()
    stream.dismiss()
    for _ in range(10):
        peer.may_go.release()
    await settled()
    assert peer.read_so_far == MOST_AHEAD + 10
    gate.expiring = True
    for _ in range(MOST_AHEAD + 1):
        peer.may_go.release()
    with pytest.raises(Draining):
        await call
    assert peer.written == [str(i) for i in range(1, peer.read_so_far + 1)]
    assert peer.read_so_far <= MOST_AHEAD + 11


@pytest.mark.parametrize("early", [True, False])
async def test_dismissed_stream_ends_when_silent(early, monkeypatch):
    """Whether it was told before it began to wait, or while it waited."""
    monkeypatch.setattr(infer_stream, "_SILENCE_S", 0.0)

    class Silent(Peer):
        async def read(self):
            request = await super().read()
            return await asyncio.Event().wait() if request is grpc.aio.EOF else request

    peer = Silent(requests=3)
    stream = InferStream(peer, echo, Gate())
    if early:
        stream.dismiss()
    call = asyncio.create_task(stream.run())
    await peer.writing.wait()
    await settled()
    stream.dismiss()
    for _ in range(3):
        peer.may_go.release()
    with pytest.raises(Draining):
        await call
    assert early or peer.written == ["1", "2", "3"]


async def test_only_the_first_is_impatient():
    """A request is refused for want of room only while no other of its stream is under way."""
    patience, free = [], asyncio.Event()

    async def answering(request, context, *, patient):
        patience.append(patient)
        await free.wait()
        return await echo(request, context, patient=patient)

    peer = Peer(requests=3)
    for _ in range(3):
        peer.may_go.release()
    call = asyncio.create_task(InferStream(peer, answering, Gate()).run())
    await settled()
    free.set()
    await call
    assert patience == [False, True, True]


async def test_cancelled_stream_cancels_its_work():
    """Nothing is computed for a client who left."""
    cancelled = []

    async def answering(request, context, *, patient):
        del context, patient
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.id)
            raise

    call = asyncio.create_task(InferStream(Peer(requests=3), answering, Gate()).run())
    await settled()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await settled()
    assert sorted(cancelled) == ["1", "2", "3"]


async def test_broken_stream_fails():
    """What reading raises is the error of the call."""

    class Broken(Peer):
        async def read(self):
            raise RuntimeError("not a message")

    with pytest.raises(RuntimeError, match="not a message"):
        await InferStream(Broken(), echo, Gate()).run()
