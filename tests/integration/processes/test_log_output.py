"""Tests of the log of a server that is attacked or whose log is not read."""

import asyncio
import json
import os
import signal
import struct
from contextlib import closing

import grpc
import pytest
from held_backend import WAIT_S
from hpack import Encoder
from server_process import ended, line_of, process
from tiny_bundles import write_bundle

from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.parametrize("processes", [1, 2])

PLAIN = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
SETTINGS, HEADERS, DATA, GOAWAY = 4, 1, 0, 7
END_STREAM, END_HEADERS = 1, 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A repository with one small model."""
    directory = tmp_path_factory.mktemp("tiny")
    write_bundle(directory, "tiny", conditional=False)
    return directory


def make_frame(kind, payload, flags=0, stream=0):
    """Returns an HTTP/2 frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def make_call(*headers):
    """Returns the frames of a call with these headers."""
    block = Encoder().encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/imagemint.v1.ModelService/ListModels"),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *headers,
        ]
    )
    return make_frame(HEADERS, block, END_HEADERS, 1) + make_frame(DATA, bytes(5), END_STREAM, 1)


async def send_frames(address, *frames):
    """Sends frames on a new connection and returns when the server has read them."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    with closing(writer):
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + make_frame(SETTINGS, b""))
        for frame in frames:
            writer.write(frame)
        await writer.drain()
        # An answered ping, or the end of the connection, shows that everything before was read.
        writer.write(make_frame(6, bytes(8)))
        async with asyncio.timeout(WAIT_S):
            while content := await reader.read(4096):
                if make_frame(6, bytes(8), 1) in content:
                    return


async def test_callers_cannot_forge_lines(tiny, processes):
    """The log has no forged line, no credential and few lines of a flood."""
    forged = b'\n{"event": "ready", "forged": true}\n'
    goaway = make_frame(GOAWAY, struct.pack(">II", 0, 11) + b"too_many" + forged)
    secret = make_call(("authorization", b"Bearer s3cret-token\xff"))
    async with process(f"--repository={tiny}", f"--processes={processes}") as server:
        ready = await line_of(server, "ready")
        address = ready["grpc_address"]
        await send_frames(address, goaway)
        await send_frames(address, secret)
        bad = struct.pack(">II", 2**31 - 1, 2) + b"x" * 1_000
        await send_frames(address, *[make_frame(GOAWAY, bad)] * 300)
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            _, log = await server.communicate()
    assert server.returncode == 0
    records = [json.loads(line) for line in log.splitlines()]
    assert not [record for record in records if "forged" in record]
    told = [record for record in records if record["logger"] == "grpc.core"]
    assert any('"forged": true' in each["event"] for each in told)
    assert len(told) <= 20
    assert b"s3cret" not in log
    assert any("Invalid encoding" in record["event"] for record in records)


async def test_unread_log_does_not_block_the_server(tiny, processes):
    """Calls are answered, and SIGTERM ends the server."""
    options = (f"--repository={tiny}", f"--processes={processes}", "--access-log=1")
    async with process(*options) as server:
        ready = await line_of(server, "ready")
        pipe = server._transport.get_pipe_transport(2)
        pipe.pause_reading()
        request = pb.GenerateRequest(images={"model": "tiny", "count": 1})
        async with grpc.aio.insecure_channel(ready["grpc_address"], options=PLAIN) as channel:
            stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
            for _ in range(300):  # about 100 kB of log, while the pipe holds 64 kB
                await stub.Generate(request, timeout=WAIT_S)
        gone = os.pidfd_open(server.pid)
        try:
            left = asyncio.Event()
            asyncio.get_running_loop().add_reader(gone, left.set)
            server.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WAIT_S):
                await left.wait()
        finally:
            asyncio.get_running_loop().remove_reader(gone)
            os.close(gone)
        pipe.resume_reading()
        assert await ended(server) == 0
