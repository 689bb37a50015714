"""A request whose path is not text: it ends gRPC's loop, and must not end the server."""

import asyncio
import struct
from contextlib import closing, suppress

import grpc
import pytest
from hpack import Encoder

from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADERS, SETTINGS, PING = 1, 4, 6


def frame(kind, payload, flags=0, stream=0):
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


async def ask_for(path, address, until):
    """Sends one request for a path; returns when the server has read it."""
    opened = []

    async def connects():
        # The listener stays closed until gRPC has been started again after the request before.
        with suppress(ConnectionRefusedError):
            opened.append(await asyncio.open_connection(*address.split(":")))
        return bool(opened)

    await until(connects)
    ((reader, writer),) = opened
    names = (":method", ":scheme", ":path", ":authority", "content-type", "te")
    values = ("POST", "http", path, "x", "application/grpc", "trailers")
    block = Encoder().encode(list(zip(names, values, strict=True)))
    with closing(writer):
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, b""))
        writer.write(frame(HEADERS, block, 5, 1) + frame(PING, bytes(8)))
        content = b""
        async with asyncio.timeout(60):
            while frame(PING, bytes(8), 1) not in content:
                content += await reader.read(4096)


async def test_path_that_is_no_text_ends_nothing(held, connect, until):
    """New calls are answered again, and one that was under way gets its answer."""
    async with connect(held) as channel:
        generate = generation_service_pb2_grpc.GenerationServiceStub(channel).Generate
        request = pb.GenerateRequest(images={"model": "digits", "count": 1})
        inside = asyncio.create_task(_answer(generate(request)))
        await held.backends["digits"].begun()
        for _ in range(2):
            await ask_for(b"/\xff", held.grpc_address, until)

            async def listens():
                try:
                    async with connect(held) as other:
                        stub = generation_service_pb2_grpc.GenerationServiceStub(other)
                        wrong = pb.GenerateRequest(images={"model": "no", "count": 1})
                        # A call that arrives while gRPC stops is lost, and ends by its deadline.
                        await stub.Generate(wrong, timeout=2)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.NOT_FOUND

            await until(listens)
        held.backends["digits"].release()
        assert len((await inside).batch.pictures) == 1


async def _answer(call):
    return await call
