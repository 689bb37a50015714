"""From listening to leaving: addresses, failures at the start, and the drain of a server."""

import asyncio
import contextlib
import socket
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import HeldBackend

from imagemint.client import AsyncClient
from imagemint.server.app import App
from imagemint.server.healthcheck import serving_status
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def request(count=1, **images):
    """A GenerateRequest for `digits`."""
    return pb.GenerateRequest(images={"model": "digits", "count": count, "seed": 1, **images})


@contextlib.contextmanager
def occupied():
    """A loopback address that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield "{}:{}".format(*other.getsockname())


@pytest.mark.parametrize("name", ["grpc_address", "metrics_address"])
async def test_address_in_use_fails_the_start(models, name):
    """An OSError that names the address, and nothing is left listening or running."""
    before = set(threading.enumerate())
    with occupied() as taken:
        free = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
        app = App(ServeSettings(repository=models, **(free | {name: taken})))
        with pytest.raises(OSError, match=f"cannot listen on {taken}"):
            await app.start()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    # asyncio and gRPC keep one thread each for all that a process may still do.
    assert not [name for name in left if not name.startswith("asyncio") and "poll" not in name]
    if app.grpc_address:
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(serving_status, app.grpc_address, timeout_s=0.1)


@pytest.mark.parametrize("host", ["[::1]", "::1", "localhost"])
async def test_host_may_be_spelt_otherwise(serve, models, scrape, host):
    """IPv6 with brackets or without, and names, for both listeners."""
    if host != "localhost" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    app = await serve(models, grpc_address=f"{host}:0", metrics_address=f"{host}:0")
    assert app.grpc_address.startswith(("[::1]:", "localhost:"))
    async with AsyncClient(app.grpc_address) as client:
        assert len(await client.generate("digits", 2)) == 2
    assert await scrape(app.metrics_address)


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_server_is_not_serving_before_it_has_loaded(models, connect):
    """It listens at once, says NOT_SERVING and UNAVAILABLE, and turns when all is loaded."""
    entered, go_on = threading.Event(), threading.Event()

    class SlowApp(App):
        def _open_backend(self, bundle):
            entered.set()
            assert go_on.wait(30)
            return super()._open_backend(bundle)

    anywhere = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    app = SlowApp(ServeSettings(repository=models, **anywhere))
    starting = asyncio.create_task(app.start())
    assert await asyncio.to_thread(entered.wait, 30)
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == NOT_SERVING
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "still loading" in caught.value.details()
        go_on.set()
        assert (await health.read()).status == SERVING
        assert len((await stub.Generate(request())).batch.images) == 1
        health.cancel()
    await starting
    await app.stop()


async def test_drain_finishes_what_was_accepted(held, connect, scrape, total, until):
    """Health first; calls inside end well; calls that come later are refused; then all is gone."""
    backend = held.backends["digits"]
    async with connect(held) as channel, connect(held) as other:
        # Held calls, a held stream, and a health check by a client that watches.
        health = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == SERVING
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        accepted = [stub.Generate(request(2, first_index=2 * i)) for i in range(5)]
        wanted = pb.StreamGenerateRequest(images=request(30).images, chunk_size=4)
        stream = stub.StreamGenerate(wanted)

        async def all_accepted():
            samples = await scrape(held.metrics_address)
            service = "imagemint.v1.GenerationService"
            return total(samples, "imagemint_inflight_requests", service=service) == 6

        await until(all_accepted)
        stopping = asyncio.create_task(held.stop())
        assert (await health.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as dismissed:
            await health.read()  # a watcher never leaves by himself, and must not hold the drain up
        assert dismissed.value.code() is grpc.StatusCode.UNAVAILABLE
        late = generation_service_pb2_grpc.GenerationServiceStub(other).Generate(request())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await late
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        backend.release()
        answers = await asyncio.gather(*accepted)
        chunks = [chunk async for chunk in stream]
        await stopping
    pictures = [picture for answer in answers for picture in answer.batch.pictures]
    streamed = [picture for chunk in chunks for picture in chunk.batch.pictures]
    assert len(pictures) == 10
    assert len(streamed) == 30
    assert streamed[:10] == pictures


async def test_drain_delay_still_accepts(serve, models, connect):
    """While balancers take notice, health says NOT_SERVING and calls are still answered."""
    app = await serve(models, drain_delay_s=0.2)
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await health.read()
        stopping = asyncio.create_task(app.stop())
        assert (await health.read()).status == NOT_SERVING
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        assert len((await stub.Generate(request())).batch.images) == 1
        await stopping


async def test_stream_beyond_the_grace_is_told_to_resume(serve, models, connect, details_of):
    """An endless stream ends with UNAVAILABLE and a retry delay, between two chunks."""
    app = await serve(models, drain_grace_s=0.5)
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        stream = stub.StreamGenerate(
            pb.StreamGenerateRequest(images=request(2**50).images, chunk_size=16)
        )
        assert (await stream.read()).batch.images[-1].index == 15
        stopping = asyncio.create_task(app.stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_on(stream, 16)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        details = details_of(caught.value)
        assert details["ErrorInfo"].reason == "DRAINING"
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        await stopping


async def _read_on(stream, index):
    """Reads whole chunks, each index following the one before, until the call ends."""
    while chunk := await stream.read():
        assert [image.index for image in chunk.batch.images] == list(range(index, index + 16))
        index += 16


async def test_stream_moves_to_another_server(serve, models):
    """The public client goes on where the drained server left off: each index once, same pixels."""
    app = await serve(models, drain_grace_s=0.5)
    other = await serve(models)
    count, chunks, stopping = 3_000, [], None
    async with (
        AsyncClient([app.grpc_address, other.grpc_address]) as client,
        AsyncClient(other.grpc_address) as sure,
    ):
        stream = client.stream("digits", 2**50, seed=3, chunk_size=50)
        async for chunk in stream:
            chunks.append(chunk)
            stopping = stopping or asyncio.create_task(app.stop())
            if stopping.done() and len(chunks) * 50 >= count:
                break
        await stream.aclose()
        await stopping
        indices = np.concatenate([chunk.index for chunk in chunks])
        assert indices.tolist() == list(range(len(indices)))
        for chunk in (chunks[0], chunks[len(chunks) // 2], chunks[-1]):
            first = int(chunk.index[0])
            again = await sure.generate("digits", 50, seed=3, first_index=first)
            assert again.image.tobytes() == chunk.image.tobytes()


async def test_rolling_restart_loses_no_call(serve, models):
    """Clients at full speed over two servers notice nothing when one of them is drained."""
    app, other = await serve(models), await serve(models)
    stopped = asyncio.Event()

    async def ask():
        while not stopped.is_set():
            assert len(await client.generate("digits", 2)) == 2

    async with AsyncClient([app.grpc_address, other.grpc_address]) as client:
        asking = [asyncio.create_task(ask()) for _ in range(40)]
        for _ in range(50):
            await client.generate("digits", 2)
        await app.stop()
        for _ in range(50):
            await client.generate("digits", 2)
        stopped.set()
        await asyncio.gather(*asking)


async def test_hanging_device_does_not_keep_the_process(serve, models, connect, monkeypatch):
    """A pass that never ends is left behind after the grace; its caller is not left waiting."""
    monkeypatch.setattr("imagemint.server.app._CLOSING_S", 0.05)

    class HangingApp(App):
        def _open_backend(self, bundle):
            backend = HeldBackend(super()._open_backend(bundle).run)
            if bundle.spec.name == "digits":
                self.hanging = backend
            return backend

    app = await serve(models, HangingApp, drain_grace_s=0.1, instances=1)
    app.hanging.hold()
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        call = stub.Generate(request())
        await app.hanging.begun(2)  # the first was the warm-up
        await app.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    app.hanging.release()
