"""Tests of overload: calls are refused or dropped, and dropped calls are not computed."""

import asyncio
import time

import grpc
import pytest

from imagemint.client import AsyncClient
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATION = "imagemint.v1.GenerationService"


def make_request(count=1, **images):
    """Returns a GenerateRequest for `digits`."""
    return pb.GenerateRequest(images={"model": "digits", "count": count, "seed": 1, **images})


@pytest.fixture
def samples(held, scrape):
    """A function that reads the samples of the held server."""

    async def read():
        return await scrape(held.metrics_address)

    return read


@pytest.fixture
def sum_samples(samples, total):
    """A function that adds up samples of the held server."""

    async def read(name, **labels):
        return total(await samples(), name, **labels)

    return read


@pytest.fixture
def wait_for_queue(until, sum_samples):
    """A function that waits until this many images are queued."""

    async def wait(images):
        async def so_many():
            return await sum_samples("imagemint_queue_images") == images

        await until(so_many)

    return wait


@pytest.fixture
def wait_for_outcome(until, sum_samples):
    """A function that waits until this many calls are counted with a code."""

    async def wait(code, method="Generate", calls=1):
        async def seen():
            labels = {"service": GENERATION, "method": method, "model": "digits", "code": code}
            return await sum_samples("imagemint_requests_total", **labels) >= calls

        await until(seen)

    return wait


async def test_high_priority_goes_first(held, wait_for_queue, sum_samples):
    """A high-priority call goes first, fits into a full queue, and is in the metrics."""
    backend = held.backends["digits"]
    async with AsyncClient(held.grpc_address) as client:
        first = asyncio.ensure_future(client.generate("digits", 1))
        await backend.begun()
        waiting = asyncio.ensure_future(client.generate("digits", 20))
        await wait_for_queue(20)
        hasty = asyncio.ensure_future(client.generate("digits", 2, priority="high"))
        await wait_for_queue(22)
        backend.step()
        await backend.begun()
        backend.step()
        assert len((await hasty).index) == 2
        assert not waiting.done()
        backend.release()
        await asyncio.gather(first, waiting)
    assert await sum_samples("imagemint_queue_wait_seconds_count", priority="high") == 1


async def test_full_queue_gives_a_retry_delay(
    held, connect, details_of, wait_for_queue, sum_samples
):
    """RESOURCE_EXHAUSTED has a retry delay and pushback. Accepted calls are answered."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(make_request())
        await backend.begun()
        waiting = stub.Generate(make_request(20))
        await wait_for_queue(20)
        for refused in (
            stub.Generate(make_request()),
            stub.StreamGenerate(pb.StreamGenerateRequest(images=make_request().images)).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            details = details_of(caught.value)
            assert details["ErrorInfo"].reason == "QUEUE_FULL"
            delay_ms = details["RetryInfo"].retry_delay.ToMilliseconds()
            assert delay_ms > 0
            pushback = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
            assert int(pushback) == delay_ms
        assert (
            await sum_samples("imagemint_rejected_total", model="digits", reason="queue_full") == 2
        )
        backend.release()
        answers = await asyncio.gather(running, waiting)
        assert [len(answer.batch.images) for answer in answers] == [1, 20]
        assert len((await stub.Generate(make_request())).batch.images) == 1


async def test_client_retries_a_full_queue(held, wait_for_queue, sum_samples, until):
    """A refused call of the public client waits and succeeds when there is room."""
    backend = held.backends["digits"]

    async def refused():
        # More than one if the client has retried since.
        return await sum_samples("imagemint_rejected_total", model="digits") >= 1

    async with AsyncClient(held.grpc_address) as client:
        running = asyncio.create_task(client.generate("digits", 1, seed=1))
        await backend.begun()
        waiting = asyncio.create_task(client.generate("digits", 20, seed=2))
        await wait_for_queue(20)
        patient = asyncio.create_task(client.generate("digits", 1, seed=1))
        await until(refused)
        backend.release()
        assert (await patient).image.tobytes() == (await running).image.tobytes()
        assert len(await waiting) == 20


async def test_expired_call_is_not_computed(held, connect, until, sum_samples, wait_for_outcome):
    """A call that waits too long gets DEADLINE_EXCEEDED, and its images are not computed."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(make_request())
        await backend.begun()
        seen = []
        for timeout_s in (0.3, 3, 30):  # on a busy machine it may expire before it arrives
            late = stub.Generate(make_request(5, seed=2), timeout=timeout_s)

            async def queued_or_over(late=late):
                seen.append(await sum_samples("imagemint_queue_images"))
                return late.done() or seen[-1] == 5

            await until(queued_or_over)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await late
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if 5 in seen:
                break
        await wait_for_outcome("DEADLINE_EXCEEDED")
        assert await sum_samples("imagemint_queue_images") == 0
        backend.release()
        await running
        await stub.Generate(make_request(2))
    await wait_for_outcome("OK", calls=2)
    assert await sum_samples("imagemint_images_total") == 3
    assert sum(backend.sizes) == 3
    assert await sum_samples("imagemint_batch_images_sum") == 3


async def test_cancelled_call_is_not_computed(
    held, connect, wait_for_queue, sum_samples, wait_for_outcome
):
    """The queued images of a cancelled call or stream are dropped."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(make_request())
        await backend.begun()
        leaving = stub.Generate(make_request(10))
        await wait_for_queue(10)
        leaving.cancel()
        await wait_for_queue(0)
        await wait_for_outcome("CANCELLED")
        wanted = pb.StreamGenerateRequest(images=make_request(10_000).images, chunk_size=10)
        leaving = stub.StreamGenerate(wanted)
        await wait_for_queue(10)
        leaving.cancel()
        await wait_for_queue(0)
        await wait_for_outcome("CANCELLED", "StreamGenerate")
        backend.release()
        await running
    await wait_for_outcome("OK")
    assert backend.sizes == [1]
    assert await sum_samples("imagemint_images_total") == 1
    assert await sum_samples("imagemint_inflight_requests", service=GENERATION) == 0


async def test_cancelled_stream_is_counted(held, connect, wait_for_outcome, sum_samples):
    """A stream that is cancelled after a chunk is counted as CANCELLED with its duration."""
    backend = held.backends["digits"]
    backend.release()
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        wanted = pb.StreamGenerateRequest(images=make_request(2**40).images, chunk_size=4)
        call = stub.StreamGenerate(wanted)
        assert len((await call.read()).batch.images) == 4
        call.cancel()
        await wait_for_outcome("CANCELLED", "StreamGenerate")
    labels = {"service": GENERATION, "method": "StreamGenerate", "model": "digits"}
    assert await sum_samples("imagemint_request_duration_seconds_count", **labels) == 1
    assert await sum_samples("imagemint_queue_images") == 0
    assert await sum_samples("imagemint_inflight_requests", service=GENERATION) == 0


async def test_backend_failure_reveals_nothing(held, connect, details_of, wait_for_outcome, caplog):
    """INTERNAL has a request id, and the log has the reason. The next call is answered."""
    backend = held.backends["digits"]
    backend.release()
    backend.failure = RuntimeError("device lost at 0xdeadbeef")
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(make_request(), metadata=(("x-request-id", "failing-1"),))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "the server failed; request id failing-1"
        info = details_of(caught.value)["ErrorInfo"]
        assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"request_id": "failing-1"})
        assert "0xdeadbeef" in caplog.text
        backend.failure = None
        assert len((await stub.Generate(make_request())).batch.images) == 1
    await wait_for_outcome("INTERNAL")
    await wait_for_outcome("OK")


async def test_failed_stream_is_counted(held, connect, wait_for_outcome):
    """The chunk before the failure arrives, and then INTERNAL, which is counted."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        wanted = pb.StreamGenerateRequest(images=make_request(16).images, chunk_size=8)
        call = stub.StreamGenerate(wanted)
        await backend.begun()
        backend.step()
        assert len((await call.read()).batch.images) == 8
        await backend.begun()
        backend.failure = RuntimeError("broken")
        backend.release()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    await wait_for_outcome("INTERNAL", "StreamGenerate")


async def test_stream_waits_for_room(held, connect, wait_for_queue):
    """A running stream is not refused by a full queue. It continues when there is room."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(make_request())
        await backend.begun()
        wanted = pb.StreamGenerateRequest(images=make_request(24).images, chunk_size=8)
        call = stub.StreamGenerate(wanted)
        await wait_for_queue(
            8
        )  # its first chunk; a second one ahead would exceed half of the queue
        other = stub.Generate(make_request(12, seed=9))
        await wait_for_queue(20)
        backend.release()
        chunks = [chunk async for chunk in call]
        assert [image.index for c in chunks for image in c.batch.images] == list(range(24))
        assert len((await other).batch.images) == 12
        await running


async def test_deadline_of_the_call_is_that_of_the_job(held, connect, monkeypatch):
    """The remaining time of the caller is passed to the queue."""
    backend = held.backends["digits"]
    batcher = held.repository.resolve("digits").batcher
    jobs = []
    enqueue = batcher._enqueue
    monkeypatch.setattr(batcher, "_enqueue", lambda job: jobs.append(job) or enqueue(job))
    backend.release()
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        asked = time.monotonic()
        await stub.Generate(make_request(), timeout=500)
        await stub.Generate(make_request())
    limited, unlimited = jobs
    # gRPC sends a timeout of minutes in whole seconds, rounded up.
    assert asked + 400 < limited.deadline < time.monotonic() + 502
    assert unlimited.deadline == float("inf")
