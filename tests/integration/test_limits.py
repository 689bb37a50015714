"""The limits of connections and calls, each on the wire."""

import asyncio
import contextlib
import struct

import grpc
import pytest
from held_backend import WAIT_S
from setting_bounds import numbers_of

from imagemint.client import AsyncClient
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.server.rpc import channel_options
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDLESS = pb.StreamGenerateRequest(images={"model": "digits", "count": 10**9})
LIST = model_service_pb2.ListModelsRequest()

# HTTP/2: what a client begins with, and a frame by length, type, flags and stream.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11


@contextlib.asynccontextmanager
async def connection(app):
    """A connection of its own, without retries."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
        yield channel


async def failed(call):
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_large_request_is_refused(serve, models):
    """Whatever is in it; one below the limit is read."""
    app = await serve(models, max_request_bytes=10_000)
    async with connection(app) as channel:
        models_of = model_service_pb2_grpc.ModelServiceStub(channel).ListModels
        error = await failed(
            models_of(model_service_pb2.ListModelsRequest(page_token="x" * 10_000))
        )
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = await failed(models_of(model_service_pb2.ListModelsRequest(page_token="x" * 9_000)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_large_metadata_are_refused(serve, models):
    """Above the limit always, below it never."""
    app = await serve(models)
    async with connection(app) as channel:
        models_of = model_service_pb2_grpc.ModelServiceStub(channel).ListModels
        for _ in range(5):
            await models_of(LIST, metadata=(("note", "x" * 15_000),))
            error = await failed(models_of(LIST, metadata=(("note", "x" * 16_384),)))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_of_a_connection_are_limited(serve, models, monkeypatch):
    """What is over it waits at the client; another connection is answered."""
    monkeypatch.setattr(channel_options, "_MAX_STREAMS", 2)
    app = await serve(models)
    async with connection(app) as channel, connection(app) as other:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        streams = [stub.StreamGenerate(ENDLESS) for _ in range(2)]
        for stream in streams:
            await stream.read()
        error = await failed(
            model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST, timeout=0.2)
        )
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await model_service_pb2_grpc.ModelServiceStub(other).ListModels(LIST)
        streams[0].cancel()
        await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST, timeout=WAIT_S)


async def test_connections_are_limited(serve, models):
    """The one too many is closed; the others do not notice."""
    app = await serve(models, max_connections=1)
    async with connection(app) as channel, connection(app) as other:
        await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST)
        error = await failed(model_service_pb2_grpc.ModelServiceStub(other).ListModels(LIST))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST)


async def test_calls_of_the_server_are_limited(serve, models, details_of, scrape, total):
    """Over it: RESOURCE_EXHAUSTED with a delay, before the request is read; health answers."""
    app = await serve(models, max_concurrent_calls=2)
    async with connection(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        streams = [stub.StreamGenerate(ENDLESS) for _ in range(2)]
        for stream in streams:
            await stream.read()
        error = await failed(model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = details_of(error)
        assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"")
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_rejected_total", reason="too_many_calls") == 1


async def test_old_connection_leaves_and_no_call_is_lost(serve, models, connect):
    """Connections of a fifth of a second under calls without a break: every one is answered."""
    app = await serve(models, connection_age_s=0.2)
    loop = asyncio.get_running_loop()
    async with AsyncClient(app.grpc_address) as client, connect(app) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.ListModels(LIST)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        ends = loop.time() + 1.0

        async def ask():
            while loop.time() < ends:
                assert len(await client.generate("digits", 2)) == 2

        await asyncio.gather(*(ask() for _ in range(4)))
        async with asyncio.timeout(WAIT_S):
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


async def test_cut_stream_is_resumed(serve, models, monkeypatch):
    """Calls that outlive the grace of their connection are cut, and our client goes on."""
    monkeypatch.setattr(channel_options, "_AGE_GRACE_MS", 100)
    app = await serve(models, connection_age_s=0.2)
    loop = asyncio.get_running_loop()
    async with connection(app) as channel:
        stream = generation_service_pb2_grpc.GenerationServiceStub(channel).StreamGenerate(ENDLESS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with AsyncClient(app.grpc_address) as client:
        began, indices = loop.time(), []
        async for batch in client.stream("digits", 40, chunk_size=1, seed=7):
            indices += batch.index.tolist()
            await asyncio.sleep(0.03)  # the reader takes longer than a connection lives
        assert loop.time() - began > 1.0
        assert indices == list(range(40))


async def test_idle_connection_is_closed(serve, models, connect, monkeypatch):
    """Without calls it goes, and comes back with the next."""
    monkeypatch.setattr(channel_options, "_IDLE_MS", 200)
    app = await serve(models)
    async with connect(app) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.ListModels(LIST)
        async with asyncio.timeout(WAIT_S):
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await stub.ListModels(LIST)


async def pinged(app, pings):
    """The error code with which the server leaves a connection that pings; None if it stays."""
    host, _, port = app.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + frame(SETTINGS, 0, b""))
    try:
        async with asyncio.timeout(WAIT_S):
            for number in range(pings):
                writer.write(frame(PING, 0, struct.pack(">Q", number)))
                kind = None
                while kind != PING:
                    head = await reader.readexactly(9)
                    content = await reader.readexactly(int.from_bytes(head[:3]))
                    kind = head[3]
                    if kind == GOAWAY:
                        return int.from_bytes(content[4:8])
    finally:
        writer.close()
    return None


def frame(kind, flags, content):
    """One frame of stream 0."""
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + bytes(4) + content


async def test_ping_flood_ends_its_connection(serve, models):
    """Pings that come too fast, three of them, are answered by a farewell."""
    app = await serve(models)
    assert await pinged(app, 2) is None
    assert await pinged(app, 20) == ENHANCE_YOUR_CALM


# What changes how many threads there are, when the connection ends, or how long a stop takes.
ELSEWHERE = {
    "processes",
    "instances",
    "connection_age_s",
    "drain_delay_s",
    "stall_timeout_s",
}


@pytest.mark.parametrize("which", [0, 1], ids=["least", "most"])
async def test_numbers_at_their_bounds_are_served(serve, models, which):
    """With all numeric settings at their least, or at their largest, every model is described."""
    numbers = {
        name: bounds[which]
        for name, bounds in numbers_of(ServeSettings).items()
        if name not in ELSEWHERE and None not in bounds
    }
    if which == 0:
        numbers |= {"max_image_memory_bytes": 2**20}
        # With the least time the server starts before its models are loaded, as it should.
        numbers |= {"start_timeout_s": 10.0, "load_timeout_s": 10.0}
    app = await serve(models, **numbers)
    async with connection(app) as channel:
        get = model_service_pb2_grpc.ModelServiceStub(channel).GetModel
        answer = await get(model_service_pb2.GetModelRequest(model="digits"))
        assert answer.model.limits.max_queue_images == numbers["max_queue_images"]
        assert answer.model.limits.max_images_per_request >= 1
        config = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelConfig
        answer = await config(grpc_service_pb2.ModelConfigRequest(name="digits"))
        assert answer.config.max_batch_size >= 1
        generate = generation_service_pb2_grpc.GenerationServiceStub(channel).Generate
        images = {"model": "digits", "count": 1}
        assert await generate(pb.GenerateRequest(images=images))
