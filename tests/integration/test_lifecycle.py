"""Tests of the server's life cycle: addresses, failed starts and the drain."""

import asyncio
import contextlib
import socket
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S, HeldBackend

from imagemint.client import AsyncClient, NotFound
from imagemint.server.app import App
from imagemint.server.healthcheck import read_serving_status
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# the health that clients watch
WATCHED = health_pb2.HealthCheckRequest(service="imagemint.v1.ModelService")
LISTED = {"service": "imagemint.v1.ModelService", "code": "OK"}


def make_request(count=1, **images):
    """Returns a GenerateRequest for `digits`."""
    return pb.GenerateRequest(images={"model": "digits", "count": count, "seed": 1, **images})


@contextlib.contextmanager
def occupy_address():
    """Listens on a loopback address as another server."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield "{}:{}".format(*other.getsockname())


@pytest.mark.parametrize("name", ["grpc_address", "metrics_address"])
async def test_used_address_fails_the_start(models, name):
    """The OSError has the address, and no listener or thread remains."""
    before = set(threading.enumerate())
    with occupy_address() as taken:
        free = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
        app = App(ServeSettings(repository=models, **(free | {name: taken})))
        with pytest.raises(OSError, match=f"cannot listen on {taken}"):
            await app.start()
    for thread in set(threading.enumerate()) - before:
        # asyncio and gRPC keep one thread each for the rest of the process.
        if not thread.name.startswith("asyncio") and "poll" not in thread.name:
            await asyncio.to_thread(thread.join, WAIT_S)  # servers of other tests end theirs soon
            assert not thread.is_alive()
    if app.grpc_address:
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(read_serving_status, app.grpc_address, timeout_s=0.1)


@pytest.mark.parametrize("host", ["[::1]", "::1", "localhost"])
async def test_host_has_several_spellings(serve, models, scrape, host):
    """Both listeners accept IPv6 with or without brackets, and names."""
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


async def test_server_is_not_serving_before_models_are_loaded(models, connect):
    """It listens at once with NOT_SERVING and UNAVAILABLE and changes when all are loaded."""
    entered, go_on = threading.Event(), threading.Event()

    class SlowApp(App):
        def _open_backend(self, bundle):
            entered.set()
            assert go_on.wait(WAIT_S)
            return super()._open_backend(bundle)

    anywhere = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    app = SlowApp(ServeSettings(repository=models, **anywhere))
    starting = asyncio.create_task(app.start())
    assert await asyncio.to_thread(entered.wait, WAIT_S)
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == NOT_SERVING
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(make_request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "still loading" in caught.value.details()
        go_on.set()
        assert (await health.read()).status == SERVING
        assert len((await stub.Generate(make_request())).batch.images) == 1
        health.cancel()
    await starting
    await app.stop()


async def test_drain_completes_accepted_calls(held, connect, scrape, total, until):
    """Health changes first, running calls complete, later ones are refused, and all threads end."""
    backend = held.backends["digits"]
    async with connect(held) as channel, connect(held) as other:
        # held calls, a held stream, and a health check of a client that watches
        health = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == SERVING
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        accepted = [stub.Generate(make_request(2, first_index=2 * i)) for i in range(5)]
        wanted = pb.StreamGenerateRequest(images=make_request(30).images, chunk_size=4)
        stream = stub.StreamGenerate(wanted)

        async def all_accepted():
            samples = await scrape(held.metrics_address)
            service = "imagemint.v1.GenerationService"
            return total(samples, "imagemint_inflight_requests", service=service) == 6

        await until(all_accepted)
        stopping = asyncio.create_task(held.stop())
        assert (await health.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as dismissed:
            await health.read()  # a watcher never leaves by itself and must not block the drain
        assert dismissed.value.code() is grpc.StatusCode.UNAVAILABLE
        late = generation_service_pb2_grpc.GenerationServiceStub(other).Generate(make_request())
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


async def test_calls_are_accepted_during_the_drain_delay(serve, models, connect, scrape, total):
    """Health is NOT_SERVING for load balancers, while calls are still answered."""
    app = await serve(models, drain_delay_s=2.0)
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await health.read()
        assert total(await scrape(app.metrics_address), "imagemint_serving") == 1
        stopping = asyncio.create_task(app.stop())
        assert (await health.read()).status == NOT_SERVING
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        assert len((await stub.Generate(make_request())).batch.images) == 1
        await stopping


async def test_stream_beyond_the_grace_ends_between_chunks(serve, models, connect, details_of):
    """An endless stream ends with UNAVAILABLE and a retry delay."""
    app = await serve(models, drain_grace_s=0.5)
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        stream = stub.StreamGenerate(
            pb.StreamGenerateRequest(images=make_request(2**50).images, chunk_size=16)
        )
        assert (await stream.read()).batch.images[-1].index == 15
        stopping = asyncio.create_task(app.stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_rest(stream, 16)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        details = details_of(caught.value)
        assert details["ErrorInfo"].reason == "DRAINING"
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        await stopping


async def _read_rest(stream, index):
    """Reads chunks with consecutive indices until the call ends."""
    while chunk := await stream.read():
        assert [image.index for image in chunk.batch.images] == list(range(index, index + 16))
        index += 16


async def test_stream_continues_on_another_server(serve, models):
    """The public client gets each index once, with the same pixels."""
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
    """Clients of two servers see no error when one of them drains."""
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


async def test_draining_server_gets_no_calls_of_clients(  # noqa: PLR0917 - fixtures
    serve, models, held, connect, scrape, total, until, monkeypatch
):
    """Clients go to the other server, although the drain takes as long as a running call.

    Each deadline is shorter than the server's retry delay, so a call that waits for it fails.
    """
    monkeypatch.setattr("imagemint.server.rpc.server._RETRY_DELAY_S", 10 * WAIT_S)
    other = await serve(models)
    async with (
        connect(held) as channel,
        AsyncClient([held.grpc_address, other.grpc_address], timeout_s=WAIT_S) as client,
    ):
        accepted = generation_service_pb2_grpc.GenerationServiceStub(channel).Generate(
            make_request()
        )
        await held.backends["digits"].begun()
        health = health_pb2_grpc.HealthStub(channel).Watch(WATCHED)
        assert (await health.read()).status == SERVING

        async def both_answer():
            await client.models()
            found = [await scrape(app.metrics_address) for app in (held, other)]
            return all(total(each, "imagemint_requests_total", **LISTED) for each in found)

        await until(both_answer)
        stopping = asyncio.create_task(held.stop())
        assert (await health.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await health.read()  # from now on, the server refuses calls
        for _ in range(50):
            assert len(await client.generate("digits")) == 1
        samples = await scrape(held.metrics_address)
        # Round robin would send every second call to the draining server.
        assert total(samples, "imagemint_rejected_total", reason="draining") < 10
        assert not stopping.done()
        held.backends["digits"].release()
        await accepted
        await stopping


async def test_server_without_models_is_still_asked(serve, connect, tmp_path, scrape, total):
    """The server as a whole is NOT_SERVING, but it tells clients what it has."""
    app = await serve(tmp_path)
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        health = health_pb2_grpc.HealthStub(channel)
        whole = await health.Check(health_pb2.HealthCheckRequest())
        assert whole.status == NOT_SERVING
        assert total(await scrape(app.metrics_address), "imagemint_serving") == 0
        assert await client.models() == []
        with pytest.raises(NotFound):
            await client.generate("digits")


async def test_hanging_device_does_not_block_the_stop(serve, models, connect, monkeypatch):
    """A batch that never ends is abandoned after the grace, and its caller gets an error."""
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
        call = stub.Generate(make_request())
        await app.hanging.begun(2)  # the first was the warm-up
        await app.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    app.hanging.release()
