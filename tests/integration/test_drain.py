"""SIGTERM to a real process under load: nothing that was accepted is lost."""

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S
from tiny_bundles import write_bundle

from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx_backend import OnnxBackend
from imagemint.engine.sampling import latents
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMMAND = Path(sys.executable).with_name("imagemint")
SEED = 5
STREAMS, STREAMED, CALLS = 4, 400, 24


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
    return engine.run(latents(SEED, 0, STREAMED, 8))


@asynccontextmanager
async def process(*arguments):
    """`imagemint serve` on free ports; yields the process, killed if it does not end by itself."""
    started = await asyncio.create_subprocess_exec(
        *(COMMAND, "serve", "--grpc-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def line_of(started, event):
    """The log line of an event, once it is written."""
    async with asyncio.timeout(WAIT_S):
        while line := await started.stderr.readline():
            if (logged := json.loads(line))["event"] == event:
                return logged
    raise AssertionError(f"it ended without {event!r}")


async def ended(started):
    """The exit status."""
    async with asyncio.timeout(WAIT_S):
        await started.communicate()
    return started.returncode


async def test_sigterm_loses_nothing(large_models, expected, scrape, total, until):
    """Calls in flight end well with the right bytes, health says so first, and the exit is 0."""
    # Lone calls wait up to a second for company, so that they are in flight when the signal comes;
    # streams are in flight because nobody reads them yet.
    options = (f"--repository={large_models}", "--batch-delay-ms=1000", "--max-batch-images=64")
    async with process(*options, "--drain-delay-s=0.2") as started:
        ready = await line_of(started, "ready")
        windows = [("grpc.enable_http_proxy", 0), ("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(ready["grpc_address"], options=windows) as channel:
            stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            images = {"model": "large", "seed": SEED, "count": STREAMED}
            streams = [
                stub.StreamGenerate(pb.StreamGenerateRequest(images=images, chunk_size=100))
                for _ in range(STREAMS)
            ]
            answered = []
            while True:
                calls = [
                    stub.Generate(
                        pb.GenerateRequest(images=images | {"first_index": i, "count": 1})
                    )
                    for i in range(CALLS)
                ]
                if await _in_flight(scrape, total, ready["metrics_address"], calls, until):
                    break
                answered += await asyncio.gather(*calls)
            started.send_signal(signal.SIGTERM)
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


async def test_second_signal_ends_at_once(large_models):
    """An operator who insists is obeyed; until then the log has told the effective settings."""
    async with process(f"--repository={large_models}", "--drain-delay-s=1000") as started:
        settings = await line_of(started, "settings")
        assert settings["repository"] == str(large_models)
        assert (settings["drain_delay_s"], settings["max_queue_images"]) == (1_000, 8_192)
        await line_of(started, "ready")
        started.send_signal(signal.SIGTERM)
        await line_of(started, "draining")
        started.send_signal(signal.SIGINT)
        assert await ended(started) == 128 + signal.SIGINT
