"""Tests of a stream of tensor requests: how far it reads ahead, and how it ends."""

import asyncio

import grpc
import pytest
from held_backend import WAIT_S

from imagemint.engine.errors import Draining
from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.rpc import request_stream
from imagemint.server.rpc.call import Call, current_call
from imagemint.server.rpc.request_stream import RequestStream
from imagemint.server.rpc.submission import Gate

# The module documents this number of requests ahead of the response that is being written.
MOST_AHEAD = 32


class Peer:
    """The context of a stream, which controls requests and responses."""

    def __init__(self, requests=None):
        self.left = requests
        self.read_so_far = 0
        self.written = []
        self.writing = asyncio.Event()
        self.may_go = asyncio.Semaphore(0)

    async def read(self):
        """Returns the next request, or EOF at the end of a limited stream."""
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
    """Answers immediately."""
    del context, patient
    return pb.ModelStreamInferResponse(infer_response={"id": request.id})


async def settle():
    """Runs every task as far as possible: one iteration of the loop per request and more."""
    for _ in range(10 * MOST_AHEAD):
        await asyncio.sleep(0)


async def test_slow_reader_limits_the_requests_read():
    """No further requests are read while the client reads no responses."""
    peer = Peer()
    call = asyncio.create_task(RequestStream(peer, echo, Gate()).run())
    await peer.writing.wait()
    await settle()
    assert peer.read_so_far == MOST_AHEAD
    peer.may_go.release()
    await settle()
    assert peer.read_so_far == MOST_AHEAD + 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_bytes_of_requests_are_limited(monkeypatch):
    """The bytes of running requests are limited, but at least one request runs."""
    monkeypatch.setattr(request_stream, "_AHEAD_BYTES", 10_000)

    class Sender(Peer):
        async def read(self):
            request = await super().read()
            request.raw_input_contents.append(bytes(4_000 if self.read_so_far < 6 else 20_000))
            return request

    peer, answered = Sender(), []

    async def answering(request, context, *, patient):
        answered.append(request.id)
        return await echo(request, context, patient=patient)

    call = asyncio.create_task(RequestStream(peer, answering, Gate()).run())
    await settle()
    assert answered == ["1", "2"]
    assert peer.read_so_far == 3  # which waits
    for _ in range(7):
        peer.may_go.release()
        await settle()
    assert peer.written == answered[:7] == [str(i) for i in range(1, 8)]
    assert len(answered) == 8  # each exceeds the limit of all running requests
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_bytes_of_a_sent_answer_are_released():
    """The bytes in flight of a stream do not grow with the number of its requests."""
    peer, call = Peer(requests=3), Call()
    call.budget = Budget(100)
    current_call.set(call)

    async def answering(request, context, *, patient):
        await call.reserve(20, asyncio.current_task())  # counts three times
        return await echo(request, context, patient=patient)

    for _ in range(3):
        peer.may_go.release()
    async with asyncio.timeout(WAIT_S):
        await RequestStream(peer, answering, Gate()).run()
    assert peer.written == ["1", "2", "3"]
    assert call.budget.held_bytes == 0


async def test_stream_ends_after_the_last_response():
    """All responses are sent in order before the call returns."""
    peer = Peer(requests=100)
    for _ in range(100):
        peer.may_go.release()
    await RequestStream(peer, echo, Gate()).run()
    assert peer.written == [str(i) for i in range(1, 101)]


async def test_draining_stream_continues_until_the_grace_ends():
    """Requests are answered during the grace, and every accepted request is answered after it."""
    peer, gate = Peer(), Gate()
    stream = RequestStream(peer, echo, gate)
    call = asyncio.create_task(stream.run())
    await peer.writing.wait()
    await settle()
    stream.dismiss()
    for _ in range(10):
        peer.may_go.release()
    await settle()
    assert peer.read_so_far == MOST_AHEAD + 10
    gate.expiring = True
    for _ in range(MOST_AHEAD + 1):
        peer.may_go.release()
    with pytest.raises(Draining):
        await call
    assert peer.written == [str(i) for i in range(1, peer.read_so_far + 1)]
    assert peer.read_so_far <= MOST_AHEAD + 11


@pytest.mark.parametrize("early", [True, False])
async def test_draining_stream_ends_when_idle(early, monkeypatch):
    """The stream ends whether it was dismissed before or during its wait for a request."""
    monkeypatch.setattr(request_stream, "_SILENCE_S", 0.0)

    class Silent(Peer):
        async def read(self):
            request = await super().read()
            return await asyncio.Event().wait() if request is grpc.aio.EOF else request

    peer = Silent(requests=3)
    stream = RequestStream(peer, echo, Gate())
    if early:
        stream.dismiss()
    call = asyncio.create_task(stream.run())
    await peer.writing.wait()
    await settle()
    stream.dismiss()
    for _ in range(3):
        peer.may_go.release()
    with pytest.raises(Draining):
        await call
    assert early or peer.written == ["1", "2", "3"]


async def test_only_the_first_request_is_impatient():
    """A request is refused by a full queue only if no other request of its stream is running."""
    patience, free = [], asyncio.Event()

    async def answering(request, context, *, patient):
        patience.append(patient)
        await free.wait()
        return await echo(request, context, patient=patient)

    peer = Peer(requests=3)
    for _ in range(3):
        peer.may_go.release()
    call = asyncio.create_task(RequestStream(peer, answering, Gate()).run())
    await settle()
    free.set()
    await call
    assert patience == [False, True, True]


async def test_cancelled_stream_cancels_its_work():
    """No request of a client that has left is computed."""
    cancelled = []

    async def answering(request, context, *, patient):
        del context, patient
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request.id)
            raise

    call = asyncio.create_task(RequestStream(Peer(requests=3), answering, Gate()).run())
    await settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await settle()
    assert sorted(cancelled) == ["1", "2", "3"]


async def test_broken_stream_fails():
    """An exception of a read is the error of the call."""

    class Broken(Peer):
        async def read(self):
            raise RuntimeError("not a message")

    with pytest.raises(RuntimeError, match="not a message"):
        await RequestStream(Broken(), echo, Gate()).run()
