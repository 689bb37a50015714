"""Tests of SIGTERM to a real process under load, which loses no accepted call."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_process import ended, line_of, process, watched
from tiny_bundles import write_bundle

from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each channel has its own connection with a fixed window.
APART = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
SEED = 5
STREAMS, STREAMED, CALLS = 4, 400, 24
ENDLESS = pb.StreamGenerateRequest(images={"model": "digits", "count": 10**9})


@pytest.fixture(scope="module")
def large_models(tmp_path_factory):
    """A model whose images of 12 KB fill the windows of flow control."""
    directory = tmp_path_factory.mktemp("large")
    write_bundle(directory, "large", conditional=False, size=(64, 64, 3))
    return directory


@pytest.fixture(scope="module")
def expected(large_models):
    """The pixels of the requested images, computed by the engine."""
    engine = OnnxBackend(read_bundle(large_models / "large/1"), device="cpu")
    return engine.run(Batch(draw_latents(SEED, 0, STREAMED, 8)))


@pytest.mark.parametrize("processes", [1, 2])
async def test_sigterm_loses_no_call(large_models, expected, *, scrape, total, until, processes):
    """Running calls end with the right bytes, health changes first, and the exit status is 0."""
    # Single calls wait up to a second for more jobs, so they are running when the signal arrives.
    # Streams are running because they are not read yet.
    options = (f"--repository={large_models}", "--batch-delay-ms=1000", "--max-batch-images=64")
    options += ("--drain-delay-s=0.2", f"--processes={processes}")
    async with process(*options) as started:
        ready = await line_of(started, "ready")
        async with AsyncExitStack() as opened:
            stubs = [
                generation_service_pb2_grpc.GenerationServiceStub(
                    await opened.enter_async_context(
                        grpc.aio.insecure_channel(ready["grpc_address"], options=APART)
                    )
                )
                for _ in range(STREAMS)
            ]
            channel = grpc.aio.insecure_channel(ready["grpc_address"], options=APART)
            await opened.enter_async_context(channel)
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            images = {"model": "large", "seed": SEED, "count": STREAMED}
            streams = [
                stub.StreamGenerate(pb.StreamGenerateRequest(images=images, chunk_size=100))
                for stub in stubs
            ]
            answered = []
            while True:
                calls = [
                    stubs[i % STREAMS].Generate(
                        pb.GenerateRequest(images=images | {"first_index": i, "count": 1})
                    )
                    for i in range(CALLS)
                ]
                if await _wait_until_running(scrape, total, ready["metrics_address"], calls, until):
                    break
                answered += await asyncio.gather(*calls)
            # to all processes, as a terminal and some containers do
            os.killpg(started.pid, signal.SIGTERM)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            streamed, answers = await asyncio.gather(
                asyncio.gather(*map(_read_pictures, streams)), asyncio.gather(*calls)
            )
        assert await ended(started) == 0
    for index, answer in enumerate(answers):
        assert answer.batch.pictures[0] == expected[index].tobytes()
    for pictures in streamed:
        assert pictures == expected.tobytes()


async def _wait_until_running(scrape, total, address, calls, until):
    """Waits until the server counts all streams and calls. Returns False if calls were too fast."""
    service = "imagemint.v1.GenerationService"

    async def all_inside():
        samples = await scrape(address)
        inside = total(samples, "imagemint_inflight_requests", service=service)
        return inside == STREAMS + CALLS or any(call.done() for call in calls)

    await until(all_inside)
    return not any(call.done() for call in calls)


async def _read_pictures(stream):
    return b"".join([picture async for chunk in stream for picture in chunk.batch.pictures])


@pytest.mark.parametrize("processes", [1, 2])
async def test_second_signal_ends_the_server_at_once(large_models, processes, tmp_path):
    """A second signal skips the drain. The log has the effective settings."""
    options = (f"--repository={large_models}", "--drain-delay-s=1000", f"--processes={processes}")
    async with process(*options, TMPDIR=str(tmp_path)) as started:
        settings = await line_of(started, "settings")
        assert settings["repository"] == str(large_models)
        assert (settings["drain_delay_s"], settings["max_queue_images"]) == (1_000, 8_192)
        workers = range(processes) if processes > 1 else ()
        pids = [(await line_of(started, "worker ready"))["pid"] for _ in workers]
        gone = [watched(pid) for pid in pids]
        await line_of(started, "ready")
        started.send_signal(signal.SIGTERM)
        await line_of(started, "draining")
        started.send_signal(signal.SIGINT)
        assert await ended(started) == 128 + signal.SIGINT
        for wait in gone:
            await wait()
    assert not list(tmp_path.iterdir())


async def test_late_call_gets_a_retry_delay(held, connect, details_of):
    """A call during the drain gets UNAVAILABLE with a delay, on old and new connections."""
    single = pb.GenerateRequest(images={"model": "digits", "count": 1})
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        accepted = stub.Generate(single)
        await held.backends["digits"].begun()
        stopping = asyncio.create_task(held.stop())
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):  # the watch ends when calls are refused
            await _read_statuses(health)
        async with connect(held) as other:
            late = generation_service_pb2_grpc.GenerationServiceStub(other)
            for each in (
                stub.Generate(single),
                late.Generate(single),
                late.StreamGenerate(ENDLESS),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await (each.read() if hasattr(each, "read") else each)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                details = details_of(caught.value)
                assert details["ErrorInfo"].reason == "DRAINING"
                assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        held.backends["digits"].release()
        assert len((await accepted).batch.pictures) == 1
        await stopping


async def _read_statuses(watch):
    return [answer.status async for answer in watch]
