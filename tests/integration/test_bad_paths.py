"""Tests of a request whose path is not text. It must not end the server."""

import asyncio
import struct
from contextlib import closing

import grpc
import pytest
from hpack import Encoder

from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADERS, SETTINGS, PING = 1, 4, 6


def make_frame(kind, payload, flags=0, stream=0):
    """Returns an HTTP/2 frame."""
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


async def send_request(path, address):
    """Sends a request for a path and returns when the server has read it."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    names = (":method", ":scheme", ":path", ":authority", "content-type", "te")
    values = ("POST", "http", path, "x", "application/grpc", "trailers")
    block = Encoder().encode(list(zip(names, values, strict=True)))
    with closing(writer):
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + make_frame(SETTINGS, b""))
        writer.write(make_frame(HEADERS, block, 5, 1) + make_frame(PING, bytes(8)))
        content = b""
        async with asyncio.timeout(60):
            while make_frame(PING, bytes(8), 1) not in content:
                content += await reader.read(4096)


async def test_path_that_is_not_text_ends_no_call(held, connect):
    """New calls are answered, and a running call gets its response.

    In grpcio 1.84 and 1.85 such a request ends the accept loop of the server.
    """
    async with connect(held) as channel:
        generate = generation_service_pb2_grpc.GenerationServiceStub(channel).Generate
        request = pb.GenerateRequest(images={"model": "digits", "count": 1})
        inside = asyncio.create_task(_await_call(generate(request)))
        await held.backends["digits"].begun()
        for _ in range(10):
            await send_request(b"/\xff", held.grpc_address)
        async with connect(held) as other:
            stub = generation_service_pb2_grpc.GenerationServiceStub(other)
            wrong = pb.GenerateRequest(images={"model": "no", "count": 1})
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Generate(wrong, timeout=60)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        held.backends["digits"].release()
        assert len((await inside).batch.pictures) == 1


async def _await_call(call):
    return await call
