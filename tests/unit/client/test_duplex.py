"""Tests that a call keeps the answers and the status of the server, which grpc.aio can lose."""

import asyncio

import grpc
import pytest
from grpc import aio
from held_backend import WAIT_S

from imagemint.client import duplex

LOST = (grpc.StatusCode.INTERNAL, "Internal error from Core")


class EndedCall:
    """A call whose read fails, and whose status is the next of `statuses` at each look.

    How late the status comes cannot be forced, so this call takes the place of its own.
    """

    def __init__(self, *statuses):
        self.statuses = [LOST, *statuses]

    def add_done_callback(self, callback):
        """The call has ended already."""
        callback(self)

    async def read(self):
        """Fails as grpc.aio does."""
        raise aio.AioRpcError(LOST[0], aio.Metadata(), aio.Metadata(), LOST[1])

    async def _read(self):
        """No answer has arrived."""
        return aio.EOF

    async def code(self):
        """Returns the code of the current status."""
        return self.statuses[0][0]

    async def details(self):
        """Returns the details of the current status, and moves on."""
        details = self.statuses[0][1]
        if len(self.statuses) > 1:
            del self.statuses[0]
        return details

    async def trailing_metadata(self):
        """Returns no metadata."""
        return aio.Metadata()


async def read_error(call):
    """Returns the error of a read."""
    with pytest.raises(aio.AioRpcError) as caught:
        await duplex.FaithfulCall(call).read()
    return caught.value


async def test_late_status_is_that_of_the_server():
    """The status that arrives after the read has failed is raised."""
    draining = (grpc.StatusCode.UNAVAILABLE, "the server drains")
    error = await read_error(EndedCall(draining, draining, draining))
    assert (error.code(), error.details()) == draining


async def test_lost_status_may_be_tried_again(monkeypatch):
    """Without the status of the server, the call was cut: UNAVAILABLE, which clients retry."""
    monkeypatch.setattr(duplex, "_STATUS_TIMEOUT_S", 0.02)
    error = await read_error(EndedCall())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "lost its status" in error.details()


@pytest.fixture
async def open_stream():
    """A function that returns a call of a server that answers five requests and ends the call."""
    server = aio.server()

    async def answer(_, context):
        request = await context.read()
        for number in range(5):
            await context.write(b"%d" % number)
        if request == b"refuse":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the sixth is invalid")

    handlers = {"Stream": grpc.stream_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield lambda: duplex.FaithfulCall(channel.stream_stream("/Test/Stream")())
    await server.stop(0)


async def write_until_it_fails(call, request):
    """Writes requests until the call has ended, before any answer is read."""

    async def write_on():
        while True:
            await call.write(request)

    with pytest.raises((aio.AioRpcError, asyncio.InvalidStateError)):
        await asyncio.wait_for(write_on(), WAIT_S)


@pytest.mark.parametrize("request_bytes", [b"refuse", b"end"])
async def test_answers_are_read_after_a_failed_write(open_stream, request_bytes):
    """All answers come before the status, which is that of the server."""
    call = open_stream()
    await write_until_it_fails(call, request_bytes)
    assert [await call.read() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    for _ in range(2):  # the end stays
        if request_bytes == b"end":
            assert await call.read() is aio.EOF
            continue
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "the sixth is invalid"
