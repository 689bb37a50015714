"""Tests of a request whose path is not text. It ends gRPC's loop and must not end the server."""

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


def make_frame(kind, payload, flags=0, stream=0):
    """Returns an HTTP/2 frame."""
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


async def send_request(path, address, until):
    """Sends a request for a path and returns when the server has read it."""
    opened = []

    async def connects():
        # The listener is closed until gRPC has restarted after the previous request.
        with suppress(ConnectionRefusedError):
            opened.append(await asyncio.open_connection(*address.split(":")))
        return bool(opened)

    await until(connects)
    ((reader, writer),) = opened
    names = (":method", ":scheme", ":path", ":authority", "content-type", "te")
    values = ("POST", "http", path, "x", "application/grpc", "trailers")
    block = Encoder().encode(list(zip(names, values, strict=True)))
    with closing(writer):
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + make_frame(SETTINGS, b""))
        writer.write(make_frame(HEADERS, block, 5, 1) + make_frame(PING, bytes(8)))
        content = b""
        async with asyncio.timeout(60):
            while make_frame(PING, bytes(8), 1) not in content:
                content += (read := await reader.read(4096))
                assert read, "the server closed the connection"


async def test_path_that_is_not_text_ends_no_call(held, connect, until):
    """New calls are answered, and a running call gets its response."""
    async with connect(held) as channel:
        generate = generation_service_pb2_grpc.GenerationServiceStub(channel).Generate
        request = pb.GenerateRequest(images={"model": "digits", "count": 1})
        inside = asyncio.create_task(_await_call(generate(request)))
        await held.backends["digits"].begun()
        for _ in range(2):  # eight crash gRPC in one run of fifteen, see SECURITY.md
            await send_request(b"/\xff", held.grpc_address, until)

            async def listens():
                try:
                    async with connect(held) as other:
                        stub = generation_service_pb2_grpc.GenerationServiceStub(other)
                        wrong = pb.GenerateRequest(images={"model": "no", "count": 1})
                        # A call that arrives while gRPC stops is lost and ends at its deadline.
                        await stub.Generate(wrong, timeout=2)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.NOT_FOUND

            await until(listens)
        held.backends["digits"].release()
        assert len((await inside).batch.pictures) == 1


async def _await_call(call):
    return await call
