"""Tests of StreamGenerate with readers that do not read."""

import asyncio
import math
import types
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from held_backend import HeldBackend

from imagemint.engine.errors import Draining, ModelNotReady
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.server.batching import Batcher
from imagemint.server.rpc.call import Call, current_call
from imagemint.server.rpc.lookahead import count_chunks_ahead
from imagemint.server.rpc.submission import Gate
from imagemint.server.rpc.v1.generation import GenerationServicer
from imagemint.server.telemetry.metrics import Metrics
from imagemint.v1 import generation_service_pb2 as pb

CHUNK = 100
# The module lookahead documents this bound.
MOST_AHEAD = 512 + CHUNK


class CountingBatcher(Batcher):
    """A batcher that counts the images that it accepts."""

    accepted = 0

    def _enqueue(self, job):
        super()._enqueue(job)
        self.accepted += job.count


class SlowReader:
    """The context of a call whose client reads a chunk only when the test says so."""

    def __init__(self):
        self.chunks = []
        self.arrived = asyncio.Event()
        self.may_go = asyncio.Event()

    def time_remaining(self):
        """Returns no deadline."""
        return

    async def write(self, chunk):
        """Blocks as flow control does."""
        self.chunks.append(chunk)
        self.arrived.set()
        await self.may_go.wait()
        self.may_go.clear()

    async def read_one(self):
        """Waits for a chunk and reads it."""
        await self.arrived.wait()
        self.arrived.clear()
        self.may_go.set()


@pytest.fixture
def server(models, new_repository):
    """A function that starts a servicer over one model with a counting batcher.

    It returns the parts by name.
    """
    parts = types.SimpleNamespace(gate=Gate())

    def open_backend(bundle):
        parts.backend = HeldBackend(OnnxBackend(bundle, device="cpu").run)
        return parts.backend

    def open_batcher(bundle, backend):
        sizes = {"max_batch_images": 64, "max_queue_images": parts.max_queue_images}
        parts.batcher = CountingBatcher(
            bundle.spec, 1, backend, parts.metrics, instances=1, **sizes
        )
        return parts.batcher

    def start(max_queue_images=4_096):
        parts.max_queue_images = max_queue_images
        parts.metrics = Metrics()
        repository = parts.repository = new_repository(
            models,
            open_backend=open_backend,
            open_batcher=open_batcher,
            metrics=parts.metrics,
            wanted=["tiny"],
        )
        encoders = ThreadPoolExecutor(1)
        parts.servicer = GenerationServicer(repository, parts.metrics, parts.gate, encoders)
        return parts

    yield start
    parts.backend.release()


def start_stream(parts, reader, count=10_000, chunk_size=CHUNK):
    """Starts a streaming call and returns its task."""
    request = pb.StreamGenerateRequest(chunk_size=chunk_size)
    request.images.model, request.images.seed, request.images.count = "tiny", 1, count

    async def call():
        current_call.set(Call("id"))
        await parts.servicer.StreamGenerate(request, reader)

    return asyncio.create_task(call())


async def test_slow_reader_limits_the_work(server):
    """If a client stops reading, the images computed in advance stay within the limit."""
    parts, reader = server(), SlowReader()
    call = start_stream(parts, reader)
    await reader.arrived.wait()
    assert parts.batcher.accepted <= MOST_AHEAD
    for taken in range(1, 6):
        before = parts.batcher.accepted
        await reader.read_one()
        await reader.arrived.wait()
        assert parts.batcher.accepted == before + CHUNK
        assert parts.batcher.accepted <= taken * CHUNK + MOST_AHEAD
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert parts.batcher._queue.images == 0


async def test_chunks_ahead_are_submitted_one_per_iteration(server):
    """A stream of small chunks lets other calls run between its submissions."""
    parts = server()
    parts.backend.hold()
    call = start_stream(parts, SlowReader(), chunk_size=1)
    accepted = [0]
    while accepted[-1] < 300:
        await asyncio.sleep(0)
        accepted.append(parts.batcher.accepted)
    assert max(after - before for before, after in pairwise(accepted)) == 1
    call.cancel()
    await asyncio.wait({call})


async def test_every_chunk_arrives_in_order(server):
    """A client that reads gets every index once. The last chunk is shorter."""
    parts, reader = server(), SlowReader()
    call = start_stream(parts, reader, count=CHUNK * 7 + 30)
    while not call.done():
        reading = asyncio.create_task(reader.read_one())
        await asyncio.wait({call, reading}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
    await call
    assert [len(chunk.batch.images) for chunk in reader.chunks] == [CHUNK] * 7 + [30]
    indices = [image.index for chunk in reader.chunks for image in chunk.batch.images]
    assert indices == list(range(CHUNK * 7 + 30))


async def test_chunks_grow_without_a_chunk_size(server):
    """The first images arrive after a small batch, and pixels do not depend on it."""
    parts, reader = server(), SlowReader()
    call = start_stream(parts, reader, count=560, chunk_size=None)
    while not call.done():
        reading = asyncio.create_task(reader.read_one())
        await asyncio.wait({call, reading}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
    await call
    most = parts.repository.resolve("tiny").max_images
    sizes = [len(chunk.batch.images) for chunk in reader.chunks]
    assert sizes[:4] == [16, 32, 64, min(128, most)]
    assert max(sizes) <= most
    indices = [image.index for chunk in reader.chunks for image in chunk.batch.images]
    assert indices == list(range(560))


async def test_cancelled_stream_removes_its_work(server):
    """No job of a client that has left stays queued or is computed."""
    parts = server()
    parts.backend.hold()
    parts.backend.batches.clear()
    call = start_stream(parts, SlowReader())
    await parts.backend.begun(2)  # the first was the warm-up
    assert parts.batcher._queue.images > 0
    call.cancel()
    await asyncio.wait({call})
    assert parts.batcher._queue.images == 0
    parts.backend.release()
    assert await asyncio.to_thread(parts.batcher.close)
    assert len(parts.backend.batches) == 1


async def test_streams_leave_room_for_other_calls(server):
    """Streams that read ahead leave half of the queue to new calls."""
    parts = server(max_queue_images=1_000)
    parts.backend.hold()
    calls = [start_stream(parts, SlowReader()) for _ in range(4)]
    await asyncio.wait(calls, timeout=0)
    await parts.backend.begun(2)  # the first was the warm-up, and all four streams have queued
    assert 400 < parts.batcher.accepted <= 500 + 4 * CHUNK
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_stream_ends_between_chunks_at_shutdown(server):
    """Near the end of the grace a stream ends with Draining and holds nothing."""
    parts, reader = server(), SlowReader()
    call = start_stream(parts, reader)
    await reader.arrived.wait()
    parts.gate.expiring = True
    await reader.read_one()
    with pytest.raises(Draining):
        await call
    assert len(reader.chunks) == 1
    assert parts.batcher._queue.images == 0


async def test_stream_of_an_unloaded_version_ends_between_chunks(server):
    """After the grace it ends and holds nothing, even if all its work is queued."""
    parts, reader = server(), SlowReader()
    call = start_stream(parts, reader, count=2 * CHUNK)
    await reader.arrived.wait()
    parts.repository.resolve("tiny").holds.expire()
    await reader.read_one()
    with pytest.raises(ModelNotReady, match=r"version 1 of .* was unloaded"):
        await call
    assert len(reader.chunks) == 1
    assert parts.batcher._queue.images == 0


async def test_closed_batcher_counts_a_rejection(server):
    """A call after the models are closed is refused and counted."""
    parts = server()
    assert await asyncio.to_thread(parts.batcher.close)
    with pytest.raises(Draining):
        await start_stream(parts, SlowReader())
    labels = {"model": "tiny", "reason": "draining"}
    assert parts.metrics.registry.get_sample_value("imagemint_rejected_total", labels) == 1


@pytest.mark.parametrize(
    ("chunk_size", "image_bytes", "chunks"),
    [(256, 784, 2), (1, 784, 512), (1_024, 784, 1), (4, 512 * 512 * 3, 5), (1, 8_192**2 * 3, 1)],
)
def test_lookahead_is_limited_in_bytes(chunk_size, image_bytes, chunks):
    """The limit is 512 images or 16 MB, whichever is less, and at least one chunk."""
    assert count_chunks_ahead(chunk_size, image_bytes) == chunks
    assert math.prod((chunks, chunk_size, image_bytes)) <= 16 * 2**20 or chunks == 1
