"""Tests of the limits of connections and calls."""

import asyncio
import contextlib
import struct

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S
from setting_bounds import numbers_of

from imagemint.client import AsyncClient
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.server.rpc import channel_options, running_calls
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDLESS = pb.StreamGenerateRequest(images={"model": "digits", "count": 10**9})
LIST = model_service_pb2.ListModelsRequest()

# HTTP/2: the preface of a client, and types of frames.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11


@contextlib.asynccontextmanager
async def open_channel(app):
    """Opens a new connection without retries."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
        yield channel


async def get_failure(call):
    """Returns the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_large_request_is_refused(serve, models):
    """A request above the limit is refused, and one below it is read."""
    app = await serve(models, max_request_bytes=10_000)
    async with open_channel(app) as channel:
        models_of = model_service_pb2_grpc.ModelServiceStub(channel).ListModels
        error = await get_failure(
            models_of(model_service_pb2.ListModelsRequest(page_token="x" * 10_000))
        )
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = await get_failure(
            models_of(model_service_pb2.ListModelsRequest(page_token="x" * 9_000))
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_large_metadata_are_refused(serve, models):
    """Metadata above the limit always fail, and metadata below it never do."""
    app = await serve(models)
    async with open_channel(app) as channel:
        models_of = model_service_pb2_grpc.ModelServiceStub(channel).ListModels
        for _ in range(5):
            await models_of(LIST, metadata=(("note", "x" * 15_000),))
            error = await get_failure(models_of(LIST, metadata=(("note", "x" * 16_384),)))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_of_a_connection_are_limited(serve, models, monkeypatch):
    """Streams above the limit wait at the client. Another connection is served."""
    monkeypatch.setattr(channel_options, "_MAX_STREAMS", 2)
    app = await serve(models)
    async with open_channel(app) as channel, open_channel(app) as other:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        streams = [stub.StreamGenerate(ENDLESS) for _ in range(2)]
        for stream in streams:
            await stream.read()
        error = await get_failure(
            model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST, timeout=0.2)
        )
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await model_service_pb2_grpc.ModelServiceStub(other).ListModels(LIST)
        streams[0].cancel()
        await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST, timeout=WAIT_S)


async def test_connections_are_limited(serve, models, monkeypatch, scrape, total):
    """A connection above the limit is closed, and the others are not affected."""
    # The server closes idle connections when they are scarce, but not during this test.
    monkeypatch.setattr(running_calls, "_CHECK_INTERVAL_S", 3_600.0)
    app = await serve(models, max_connections=1)
    async with open_channel(app) as channel, open_channel(app) as other:
        await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST)
        error = await get_failure(model_service_pb2_grpc.ModelServiceStub(other).ListModels(LIST))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST)
        samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_connections", listener="grpc") == 1
    assert total(samples, "imagemint_connections_limit", listener="grpc") == 1
    assert not total(samples, "imagemint_connections_limit", listener="http")


async def test_http_connections_are_counted(serve, models, scrape, total):
    """The listener of HTTP has a gauge of its own."""
    app = await serve(models, http_address="127.0.0.1:0", max_connections=7)
    address = app.http_url.removeprefix("http://").removesuffix("/")
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: mint\r\n\r\n")
    assert b"200 OK" in await reader.readline()
    samples = await scrape(app.metrics_address)
    writer.close()
    await writer.wait_closed()
    assert total(samples, "imagemint_connections", listener="http") == 1
    assert total(samples, "imagemint_connections_limit", listener="http") == 7


async def test_calls_of_the_server_are_limited(serve, models, details_of, scrape, total):
    """A call above the limit gets RESOURCE_EXHAUSTED with a delay, while health is available."""
    app = await serve(models, max_concurrent_calls=2)
    async with open_channel(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        streams = [stub.StreamGenerate(ENDLESS) for _ in range(2)]
        for stream in streams:
            await stream.read()
        error = await get_failure(model_service_pb2_grpc.ModelServiceStub(channel).ListModels(LIST))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = details_of(error)
        assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"")
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_rejected_total", reason="too_many_calls") == 1


async def test_each_connection_may_watch_health(serve, models):
    """The limit on calls of a caller counts no watch of a client, but further health checks."""
    app = await serve(models, max_calls_per_caller=1)
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(3):
            client = await opened.enter_async_context(AsyncClient(app.grpc_address))
            assert len(await client.generate("digits", 2)) == 2
        stub = health_pb2_grpc.HealthStub(await opened.enter_async_context(open_channel(app)))
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert await watch.read()
        error = await get_failure(stub.Check(health_pb2.HealthCheckRequest()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_connections_end_by_age_without_losing_calls(  # noqa: PLR0917 - fixtures
    serve, models, connect, scrape, total, until
):
    """Connections live a fifth of a second under continuous calls, which all succeed.

    The client's watch of health ends with its connection.
    """
    app = await serve(models, connection_age_s=0.2)
    loop = asyncio.get_running_loop()
    async with AsyncClient(app.grpc_address) as client, connect(app) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.ListModels(LIST)
        ends = loop.time() + 1.0

        async def ask():
            while loop.time() < ends:
                assert len(await client.generate("digits", 2)) == 2

        await asyncio.gather(*(ask() for _ in range(4)))

        async def no_old_watch_is_left():
            samples = await scrape(app.metrics_address)
            health = "grpc.health.v1.Health"
            watches = total(samples, "imagemint_inflight_requests", service=health)
            return watches <= 1 < total(samples, "imagemint_requests_total", service=health)

        await until(no_old_watch_is_left)
        async with asyncio.timeout(WAIT_S):
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


async def test_interrupted_stream_resumes(serve, models, monkeypatch):
    """A call that outlives the grace of its connection is cut, and the client continues."""
    monkeypatch.setattr(channel_options, "_AGE_GRACE_MS", 100)
    app = await serve(models, connection_age_s=0.2)
    loop = asyncio.get_running_loop()
    async with open_channel(app) as channel:
        stream = generation_service_pb2_grpc.GenerationServiceStub(channel).StreamGenerate(ENDLESS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with AsyncClient(app.grpc_address) as client:
        began, indices = loop.time(), []
        async for batch in client.stream("digits", 40, chunk_size=1, seed=7):
            indices += batch.index.tolist()
            await asyncio.sleep(0.03)  # the reader takes longer than the lifetime of a connection
        assert loop.time() - began > 1.0
        assert indices == list(range(40))


async def test_idle_connection_is_closed(serve, models, connect, monkeypatch):
    """An idle connection is closed and opened again by the next call."""
    monkeypatch.setattr(channel_options, "_IDLE_MS", 1_000)
    app = await serve(models)
    async with connect(app) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.ListModels(LIST)
        async with asyncio.timeout(WAIT_S):
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await stub.ListModels(LIST)


async def ping(app, pings):
    """Returns the error code with which the server closes a connection that pings, or None."""
    host, _, port = app.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + make_frame(SETTINGS, 0, b""))
    try:
        async with asyncio.timeout(WAIT_S):
            for number in range(pings):
                writer.write(make_frame(PING, 0, struct.pack(">Q", number)))
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


def make_frame(kind, flags, content):
    """Returns a frame of stream 0."""
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + bytes(4) + content


async def test_ping_flood_closes_the_connection(serve, models):
    """More than two pings in short succession close the connection."""
    app = await serve(models)
    assert await ping(app, 2) is None
    assert await ping(app, 20) == ENHANCE_YOUR_CALM


# These change the number of threads, the end of connections or the duration of a stop.
ELSEWHERE = {
    "processes",
    "instances",
    "connection_age_s",
    "drain_delay_s",
    "stall_timeout_s",
}


@pytest.mark.parametrize("which", [0, 1], ids=["least", "most"])
async def test_numbers_at_their_limits_are_accepted(serve, models, which):
    """With all numeric settings at their minimum or maximum, every model is described."""
    numbers = {
        name: bounds[which]
        for name, bounds in numbers_of(ServeSettings).items()
        if name not in ELSEWHERE and None not in bounds
    }
    if which == 0:
        numbers |= {"max_image_memory_bytes": 2**20}
        # With the minimum the server is ready before its models are loaded, as intended.
        numbers |= {"start_timeout_s": 10.0, "load_timeout_s": 10.0}
    app = await serve(models, **numbers)
    async with open_channel(app) as channel:
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
