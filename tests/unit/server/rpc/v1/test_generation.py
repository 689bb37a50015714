"""StreamGenerate and the reader who does not read."""

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
# What design.md promises is a bound; this is the one that the module states.
MOST_AHEAD = 512 + CHUNK


class CountingBatcher(Batcher):
    """Counts the images that it accepts."""

    accepted = 0

    def _enqueue(self, job):
        super()._enqueue(job)
        self.accepted += job.count


class SlowReader:
    """The context of a call whose client takes a chunk only when told to."""

    def __init__(self):
        self.chunks = []
        self.arrived = asyncio.Event()
        self.may_go = asyncio.Event()

    def time_remaining(self):
        """No deadline."""
        return

    async def write(self, chunk):
        """Blocks as flow control does."""
        self.chunks.append(chunk)
        self.arrived.set()
        await self.may_go.wait()
        self.may_go.clear()

    async def read_one(self):
        """Waits for a chunk and takes it."""
        await self.arrived.wait()
        self.arrived.clear()
        self.may_go.set()


@pytest.fixture
def server(models, new_repository):
    """A servicer over one model with a counting batcher; its parts by name."""
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


def stream(parts, reader, count=10_000, chunk_size=CHUNK):
    """The task of a streaming call."""
    request = pb.StreamGenerateRequest(chunk_size=chunk_size)
    request.images.model, request.images.seed, request.images.count = "tiny", 1, count

    async def call():
        current_call.set(Call("id"))
        await parts.servicer.StreamGenerate(request, reader)

    return asyncio.create_task(call())


async def test_slow_reader_bounds_the_work(server):
    """Whoever stops reading stops the work: what is made ahead stays within the bound."""
    parts, reader = server(), SlowReader()
    call = stream(parts, reader)
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


async def test_chunks_ahead_are_made_one_in_a_turn(server):
    """A stream of small chunks, of which many are made ahead, lets other calls in between."""
    parts = server()
    parts.backend.hold()
    call = stream(parts, SlowReader(), chunk_size=1)
    accepted = [0]
    while accepted[-1] < 300:
        await asyncio.sleep(0)
        accepted.append(parts.batcher.accepted)
    assert max(after - before for before, after in pairwise(accepted)) == 1
    call.cancel()
    await asyncio.wait({call})


async def test_every_chunk_arrives_in_order(server):
    """A reader who reads gets all indices once, the last chunk being shorter."""
    parts, reader = server(), SlowReader()
    call = stream(parts, reader, count=CHUNK * 7 + 30)
    while not call.done():
        reading = asyncio.create_task(reader.read_one())
        await asyncio.wait({call, reading}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
    await call
    assert [len(chunk.batch.images) for chunk in reader.chunks] == [CHUNK] * 7 + [30]
    indices = [image.index for chunk in reader.chunks for image in chunk.batch.images]
    assert indices == list(range(CHUNK * 7 + 30))


async def test_chunks_grow_unless_a_size_is_named(server):
    """The first images are there after one small batch; the pixels do not depend on it."""
    parts, reader = server(), SlowReader()
    call = stream(parts, reader, count=560, chunk_size=None)
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


async def test_cancelled_stream_takes_its_work_back(server):
    """Of a caller who leaves nothing stays queued, and nothing more is run."""
    parts = server()
    parts.backend.hold()
    parts.backend.batches.clear()
    call = stream(parts, SlowReader())
    await parts.backend.begun(2)  # the first was the warm-up
    assert parts.batcher._queue.images > 0
    call.cancel()
    await asyncio.wait({call})
    assert parts.batcher._queue.images == 0
    parts.backend.release()
    assert await asyncio.to_thread(parts.batcher.close)
    assert len(parts.backend.batches) == 1


async def test_many_streams_leave_room(server):
    """Streams that read ahead leave half of the queue to callers who come anew."""
    parts = server(max_queue_images=1_000)
    parts.backend.hold()
    calls = [stream(parts, SlowReader()) for _ in range(4)]
    await asyncio.wait(calls, timeout=0)
    await parts.backend.begun(2)  # the first was the warm-up: all four streams have queued
    assert 400 < parts.batcher.accepted <= 500 + 4 * CHUNK
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_expiring_stream_ends_between_chunks(server):
    """Near the end of the grace a stream says that it is leaving, and keeps nothing."""
    parts, reader = server(), SlowReader()
    call = stream(parts, reader)
    await reader.arrived.wait()
    parts.gate.expiring = True
    await reader.read_one()
    with pytest.raises(Draining):
        await call
    assert len(reader.chunks) == 1
    assert parts.batcher._queue.images == 0


async def test_stream_leaves_an_unloaded_version_between_chunks(server):
    """After the grace even one whose work is all queued ends, and keeps nothing."""
    parts, reader = server(), SlowReader()
    call = stream(parts, reader, count=2 * CHUNK)
    await reader.arrived.wait()
    parts.repository.resolve("tiny").holds.expire()
    await reader.read_one()
    with pytest.raises(ModelNotReady, match="version 1 was unloaded"):
        await call
    assert len(reader.chunks) == 1
    assert parts.batcher._queue.images == 0


async def test_closed_batcher_counts_a_rejection(server):
    """A call that comes when the models are gone is refused and counted."""
    parts = server()
    assert await asyncio.to_thread(parts.batcher.close)
    with pytest.raises(Draining):
        await stream(parts, SlowReader())
    labels = {"model": "tiny", "reason": "draining"}
    assert parts.metrics.registry.get_sample_value("imagemint_rejected_total", labels) == 1


@pytest.mark.parametrize(
    ("chunk_size", "image_bytes", "chunks"),
    [(256, 784, 2), (1, 784, 512), (1_024, 784, 1), (4, 512 * 512 * 3, 5), (1, 8_192**2 * 3, 1)],
)
def test_lookahead_is_bounded_in_bytes(chunk_size, image_bytes, chunks):
    """512 images or 16 MB, whichever is less, and one chunk at least."""
    assert count_chunks_ahead(chunk_size, image_bytes) == chunks
    assert math.prod((chunks, chunk_size, image_bytes)) <= 16 * 2**20 or chunks == 1
