"""Too much, too late, or no longer wanted: refused or dropped, never run, and never forgotten."""

import asyncio
import time

import grpc
import pytest

from imagemint.client import AsyncClient
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATION = "imagemint.v1.GenerationService"


def request(count=1, **images):
    """A GenerateRequest for `digits`."""
    return pb.GenerateRequest(images={"model": "digits", "count": count, "seed": 1, **images})


@pytest.fixture
def samples(held, scrape):
    """Scrapes the held server."""

    async def read():
        return await scrape(held.metrics_address)

    return read


@pytest.fixture
def counted(samples, total):
    """Adds up samples of the held server."""

    async def read(name, **labels):
        return total(await samples(), name, **labels)

    return read


@pytest.fixture
def queue_holds(until, counted):
    """Waits until so many images are queued."""

    async def wait(images):
        async def so_many():
            return await counted("imagemint_queue_images") == images

        await until(so_many)

    return wait


@pytest.fixture
def outcome(until, counted):
    """Waits until as many calls have been counted with this code."""

    async def wait(code, method="Generate", calls=1):
        async def seen():
            labels = {"service": GENERATION, "method": method, "model": "digits", "code": code}
            return await counted("imagemint_requests_total", **labels) >= calls

        await until(seen)

    return wait


async def test_high_priority_goes_first(held, queue_holds, counted):
    """A caller who says so overtakes, finds room in a full queue, and shows in the metrics."""
    backend = held.backends["digits"]
    async with AsyncClient(held.grpc_address) as client:
        first = asyncio.ensure_future(client.generate("digits", 1))
        await backend.begun()
        waiting = asyncio.ensure_future(client.generate("digits", 20))
        await queue_holds(20)
        hasty = asyncio.ensure_future(client.generate("digits", 2, priority="high"))
        await queue_holds(22)
        backend.step()
        await backend.begun()
        backend.step()
        assert len((await hasty).index) == 2
        assert not waiting.done()
        backend.release()
        await asyncio.gather(first, waiting)
    assert await counted("imagemint_queue_wait_seconds_count", priority="high") == 1


async def test_full_queue_says_when_to_return(held, connect, details_of, queue_holds, counted):
    """RESOURCE_EXHAUSTED with a retry delay and pushback; what was accepted is answered."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(request())
        await backend.begun()
        waiting = stub.Generate(request(20))
        await queue_holds(20)
        for refused in (
            stub.Generate(request()),
            stub.StreamGenerate(pb.StreamGenerateRequest(images=request().images)).read(),
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
        assert await counted("imagemint_rejected_total", model="digits", reason="queue_full") == 2
        backend.release()
        answers = await asyncio.gather(running, waiting)
        assert [len(answer.batch.images) for answer in answers] == [1, 20]
        assert len((await stub.Generate(request())).batch.images) == 1


async def test_client_comes_back_to_a_full_queue(held, queue_holds, counted, until):
    """The public client, refused, waits as told and gets its images once there is room."""
    backend = held.backends["digits"]

    async def refused():
        return await counted("imagemint_rejected_total", model="digits") == 1

    async with AsyncClient(held.grpc_address) as client:
        running = asyncio.create_task(client.generate("digits", 1, seed=1))
        await backend.begun()
        waiting = asyncio.create_task(client.generate("digits", 20, seed=2))
        await queue_holds(20)
        patient = asyncio.create_task(client.generate("digits", 1, seed=1))
        await until(refused)
        backend.release()
        assert (await patient).image.tobytes() == (await running).image.tobytes()
        assert len(await waiting) == 20


async def test_passed_deadline_is_never_run(held, connect, until, counted, outcome):
    """DEADLINE_EXCEEDED for a call that waits too long; its images are not computed."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(request())
        await backend.begun()
        seen = []
        for timeout_s in (0.3, 3, 30):  # on a busy machine it may pass before the call arrives
            late = stub.Generate(request(5, seed=2), timeout=timeout_s)

            async def queued_or_over(late=late):
                seen.append(await counted("imagemint_queue_images"))
                return late.done() or seen[-1] == 5

            await until(queued_or_over)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await late
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if 5 in seen:
                break
        await outcome("DEADLINE_EXCEEDED")
        assert await counted("imagemint_queue_images") == 0
        backend.release()
        await running
        await stub.Generate(request(2))
    await outcome("OK", calls=2)
    assert await counted("imagemint_images_total") == 3
    assert sum(backend.sizes) == 3
    assert await counted("imagemint_batch_images_sum") == 3


async def test_cancelled_call_is_never_run(held, connect, queue_holds, counted, outcome):
    """Whoever hangs up takes his queued images with him, those of a stream too."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(request())
        await backend.begun()
        leaving = stub.Generate(request(10))
        await queue_holds(10)
        leaving.cancel()
        await queue_holds(0)
        await outcome("CANCELLED")
        wanted = pb.StreamGenerateRequest(images=request(10_000).images, chunk_size=10)
        leaving = stub.StreamGenerate(wanted)
        await queue_holds(10)
        leaving.cancel()
        await queue_holds(0)
        await outcome("CANCELLED", "StreamGenerate")
        backend.release()
        await running
    await outcome("OK")
    assert backend.sizes == [1]
    assert await counted("imagemint_images_total") == 1
    assert await counted("imagemint_inflight_requests", service=GENERATION) == 0


async def test_stream_left_midway_is_counted(held, connect, outcome, counted):
    """A reader who has had enough after a chunk: CANCELLED, its length observed, nothing queued."""
    backend = held.backends["digits"]
    backend.release()
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        wanted = pb.StreamGenerateRequest(images=request(2**40).images, chunk_size=4)
        call = stub.StreamGenerate(wanted)
        assert len((await call.read()).batch.images) == 4
        call.cancel()
        await outcome("CANCELLED", "StreamGenerate")
    labels = {"service": GENERATION, "method": "StreamGenerate", "model": "digits"}
    assert await counted("imagemint_request_duration_seconds_count", **labels) == 1
    assert await counted("imagemint_queue_images") == 0
    assert await counted("imagemint_inflight_requests", service=GENERATION) == 0


async def test_backend_failure_tells_nothing(held, connect, details_of, outcome, caplog):
    """INTERNAL with a request id, and the detail in the log; the next call is answered."""
    backend = held.backends["digits"]
    backend.release()
    backend.failure = RuntimeError("device lost at 0xdeadbeef")
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(request(), metadata=(("x-request-id", "failing-1"),))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "the server failed; request id failing-1"
        info = details_of(caught.value)["ErrorInfo"]
        assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"request_id": "failing-1"})
        assert "0xdeadbeef" in caplog.text
        backend.failure = None
        assert len((await stub.Generate(request())).batch.images) == 1
    await outcome("INTERNAL")
    await outcome("OK")


async def test_stream_that_fails_midway_is_counted(held, connect, outcome):
    """After the first chunk the model breaks: the chunk arrives, then INTERNAL, counted as such."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        wanted = pb.StreamGenerateRequest(images=request(16).images, chunk_size=8)
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
    await outcome("INTERNAL", "StreamGenerate")


async def test_stream_waits_for_room_where_others_queue(held, connect, queue_holds):
    """A stream under way is not refused for want of room: it goes on when there is some."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        running = stub.Generate(request())
        await backend.begun()
        wanted = pb.StreamGenerateRequest(images=request(24).images, chunk_size=8)
        call = stub.StreamGenerate(wanted)
        await queue_holds(8)  # its first chunk; a second ahead of it would pass half of the queue
        other = stub.Generate(request(12, seed=9))
        await queue_holds(20)
        backend.release()
        chunks = [chunk async for chunk in call]
        assert [image.index for c in chunks for image in c.batch.images] == list(range(24))
        assert len((await other).batch.images) == 12
        await running


async def test_deadline_of_the_caller_is_that_of_the_job(held, connect, monkeypatch):
    """The time that the caller has left travels to the queue."""
    backend = held.backends["digits"]
    batcher = held.repository.resolve("digits").batcher
    jobs = []
    enqueue = batcher._enqueue
    monkeypatch.setattr(batcher, "_enqueue", lambda job: jobs.append(job) or enqueue(job))
    backend.release()
    async with connect(held) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        asked = time.monotonic()
        await stub.Generate(request(), timeout=500)
        await stub.Generate(request())
    limited, unlimited = jobs
    assert asked + 400 < limited.deadline <= time.monotonic() + 500
    assert unlimited.deadline == float("inf")
