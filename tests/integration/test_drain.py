"""SIGTERM to a real process under load: nothing that was accepted is lost."""

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
from imagemint.engine.sampling import latents
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each channel has a connection of its own, with windows that do not grow.
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
    """A model whose images fill the windows of flow control: 12 KB each."""
    directory = tmp_path_factory.mktemp("large")
    write_bundle(directory, "large", conditional=False, size=(64, 64, 3))
    return directory


@pytest.fixture(scope="module")
def expected(large_models):
    """The pixels of the images that are asked for, from the bare engine."""
    engine = OnnxBackend(read_bundle(large_models / "large/1"), device="cpu")
    return engine.run(Batch(latents(SEED, 0, STREAMED, 8)))


@pytest.mark.parametrize("processes", [1, 2])
async def test_sigterm_loses_nothing(large_models, expected, *, scrape, total, until, processes):
    """Calls in flight end well with the right bytes, health says so first, and the exit is 0."""
    # Lone calls wait up to a second for company, so that they are in flight when the signal comes;
    # streams are in flight because nobody reads them yet.
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
                if await _in_flight(scrape, total, ready["metrics_address"], calls, until):
                    break
                answered += await asyncio.gather(*calls)
            # To all of its processes, as a terminal and some containers do.
            os.killpg(started.pid, signal.SIGTERM)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            streamed, answers = await asyncio.gather(
                asyncio.gather(*map(_pictures, streams)), asyncio.gather(*calls)
            )
        assert await ended(started) == 0
    for index, answer in enumerate(answers):
        assert answer.batch.pictures[0] == expected[index].tobytes()
    for pictures in streamed:
        assert pictures == expected.tobytes()


async def _in_flight(scrape, total, address, calls, until):
    """Waits until the server counts all streams and calls; False if the calls were too fast."""
    service = "imagemint.v1.GenerationService"

    async def all_inside():
        samples = await scrape(address)
        inside = total(samples, "imagemint_inflight_requests", service=service)
        return inside == STREAMS + CALLS or any(call.done() for call in calls)

    await until(all_inside)
    return not any(call.done() for call in calls)


async def _pictures(stream):
    return b"".join([picture async for chunk in stream for picture in chunk.batch.pictures])


@pytest.mark.parametrize("processes", [1, 2])
async def test_second_signal_ends_at_once(large_models, processes, tmp_path):
    """An operator who insists is obeyed; until then the log has told the effective settings."""
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


async def test_call_that_comes_late_is_told_when_to_come_back(held, connect, details_of):
    """While accepted work is finished: UNAVAILABLE and a delay, on old connections and new ones."""
    single = pb.GenerateRequest(images={"model": "digits", "count": 1})
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        accepted = stub.Generate(single)
        await held.backends["digits"].begun()
        stopping = asyncio.create_task(held.stop())
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):  # the watch ends when calls are refused
            await _statuses(health)
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


async def _statuses(watch):
    return [answer.status async for answer in watch]
