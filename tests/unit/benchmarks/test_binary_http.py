"""Tests of the load generator's HTTP client against a server of asyncio."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager

import numpy as np
import picture_model
import pytest
from peers.binary_http import BinaryHttp, Encoding, make_request, parse_response
from peers.messages import make_inputs

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed

ONE = parse_mix("count=1").kinds[0]
TWO_PNG = parse_mix("count=2 format=png").kinds[0]
PIXELS = bytes(range(6))
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n\x00\x01\r\n4;name=value\r\n\x02\x03\x04\x05\r\n0\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + PIXELS


class Scripted(asyncio.Protocol):
    """A server that gives every request the same answer.

    Without an answer it closes the connection.
    """

    def __init__(self, answer, connections):
        self._answer, self._connections = answer, connections
        self._received = b""

    def connection_made(self, transport):
        """Records the connection."""
        self._transport = transport
        self._connections.append(transport)

    def data_received(self, data):
        """Answers when a request is complete."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length:")[2]):
            return
        self._received = b""
        if self._answer:
            self._transport.write(self._answer)
        else:
            self._transport.close()


@asynccontextmanager
async def serve(spec, answer, **options):
    """Starts a server and yields a target and its connections."""
    connections = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Scripted(answer, connections), "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    yield BinaryHttp(address, spec, pool=1, **options), connections
    server.close()
    for connection in connections:
        connection.abort()
    await asyncio.sleep(0)  # in which they close


async def test_connection_is_reused(spec):
    """Three sequential calls use one connection."""
    async with serve(spec, ANSWER) as (target, connections), target.connect() as connection:
        send = connection.prepare_unary(ONE, 0)
        replies = [await send(turn) for turn in range(3)]
    assert [connection.compute_fingerprint(reply.content) for reply in replies] == [PIXELS] * 3
    assert len(connections) == 1


@pytest.mark.parametrize(
    "answer",
    [ANSWER, ANSWER.replace(b"Content-Length: ", b"content-length:"), CHUNKED],
    ids=["length", "lower-case", "chunked"],
)
def test_response_is_complete_only_at_its_end(answer):
    """A response may be split by TCP at any byte."""
    for end in range(len(answer)):
        assert parse_response(bytearray(answer[:end])) is None
    assert parse_response(bytearray(answer)) == PIXELS


async def test_parallel_calls_have_their_own_connections(spec):
    """HTTP/1.1 has one request per connection. Ten calls in two rounds need five."""
    async with serve(spec, ANSWER) as (target, connections), target.connect() as connection:
        send = connection.prepare_unary(ONE, 0)
        for _ in range(2):
            await asyncio.gather(*(send(turn) for turn in range(5)))
    assert len(connections) == 5


@pytest.mark.parametrize(
    ("answer", "code", "shed"),
    [
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", "HTTP_500", False),
        (b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n", "HTTP_503", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", "NO_LENGTH", False),
        (b"", "CONNECTION_LOST", False),
    ],
    ids=["error", "refused", "endless", "closed"],
)
async def test_failed_call_has_a_code(spec, answer, code, shed):
    """Failures are counted by code, with refusals due to load apart."""
    async with serve(spec, answer) as (target, _), target.connect() as connection:
        with pytest.raises(CallFailed) as caught:
            await connection.prepare_unary(ONE, 0)(0)
    assert (caught.value.code, caught.value.shed) == (code, shed)


async def test_call_times_out(spec):
    """A call without an answer fails after the timeout, and its connection is not reused."""
    silent = serve(spec, b"HTTP/1.1 200", timeout_s=0.05)
    async with silent as (target, _), target.connect() as connection:
        with pytest.raises(CallFailed, match="DEADLINE_EXCEEDED"):
            await connection.prepare_unary(ONE, 0)(0)


@pytest.mark.parametrize("encoding", Encoding)
def test_body_is_readable_by_the_peers(spec, encoding):
    """The peers' programs can read the records in every encoding."""
    target = BinaryHttp("host:1", spec, "/{format}", encoding)
    head, _, body = make_request(target, TWO_PNG, 3, 4).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /png HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    if encoding is Encoding.TAGGED:
        body = body.removesuffix(b"P")
    elif encoding is Encoding.BASE64_JSON:
        body = b"".join(map(base64.b64decode, json.loads(body)))
    z, class_id = make_inputs(spec, TWO_PNG, 3, 4)
    read = picture_model.unpack(body, spec.z_dim)
    assert np.array_equal(read[0], z)
    assert np.array_equal(read[1], class_id)
