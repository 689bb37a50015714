"""GenerationService: Generate and StreamGenerate."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from imagemint.engine.sheets import sheet
from imagemint.server.batching import Job
from imagemint.server.encoding import PictureFormat, encode
from imagemint.server.metrics import Metrics
from imagemint.server.orders import Order
from imagemint.server.repository import ModelRepository
from imagemint.server.rpc.admission import Admission, Gate, deadline_of, done, finished
from imagemint.server.rpc.auth import current_caller
from imagemint.server.rpc.calls import current_call
from imagemint.server.rpc.requests import (
    GenerateCall,
    Output,
    StreamCall,
    read_generate,
    read_stream,
)
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import generation_service_pb2_grpc, image_pb2, manifest_pb2

_FORMATS = {
    PictureFormat.RAW: image_pb2.IMAGE_FORMAT_RAW,
    PictureFormat.PNG: image_pb2.IMAGE_FORMAT_PNG,
    PictureFormat.JPEG: image_pb2.IMAGE_FORMAT_JPEG,
    PictureFormat.WEBP: image_pb2.IMAGE_FORMAT_WEBP,
}
# What one stream keeps in the making beyond the chunk being sent, but one chunk at least: enough to
# keep every instance busy while a chunk travels, and all that a reader who stops reading costs.
_LOOKAHEAD_IMAGES = 512
_LOOKAHEAD_BYTES = 16 * 2**20
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class _Pending:
    """A job under way and its place in the order."""

    job: Job
    offset: int


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Mints images.

    Args:
        repository: the models.
        metrics: where to count.
        gate: tells streams to leave.
        encoders: threads that encode pictures.
    """

    def __init__(
        self,
        repository: ModelRepository,
        metrics: Metrics,
        gate: Gate,
        encoders: ThreadPoolExecutor,
    ) -> None:
        self._admission = Admission(repository, metrics, gate)
        self._repository = repository
        self._encode_duration = {
            each: metrics.encode_duration.labels(each.value) for each in PictureFormat
        }
        self._gate = gate
        self._encoders = encoders

    async def Generate(  # noqa: N802 - named by the schema
        self,
        request: messages.GenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> messages.GenerateResponse:
        """Answers one bounded request."""
        self._admission.name_model(request.images.model)
        with self._admission.held(lambda: read_generate(request, self._repository)) as call:
            return await self._generate(call, context)

    async def _generate(
        self, call: GenerateCall, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.GenerateResponse:
        order = call.order
        job = order.job(0, order.count, deadline_of(context))
        self._admission.submit(order.version, job)
        await finished(order.version.batcher, job)
        current_call.get().images = order.count
        answer = messages.GenerateResponse()
        await self._fill(answer, order, call.output, job, is_sheet=call.sheet, columns=call.columns)
        return answer

    async def StreamGenerate(  # type: ignore[override] # noqa: N802 - named by the schema; the stub has only the generator form
        self,
        request: messages.StreamGenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Sends chunk after chunk, a bounded number of images ahead of the reader."""
        self._admission.name_model(request.images.model)
        with self._admission.held(lambda: read_stream(request, self._repository)) as call:
            chunk_size = call.chunk_size
            if not request.HasField("chunk_size"):
                chunk_size = current_caller.get().chunk_size(chunk_size)
            await self._stream(call, chunk_size, context)

    async def _stream(
        self, call: StreamCall, chunk_size: int, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        order, version = call.order, call.version
        ahead = _chunks_ahead(chunk_size, version.spec.image_bytes)
        deadline = deadline_of(context)
        pending: deque[_Pending] = deque()
        next_offset = 0
        try:
            while next_offset < order.count or pending:
                self._gate.stay()
                order.version.stay()
                while next_offset < order.count and len(pending) <= ahead:
                    size = min(chunk_size, order.count - next_offset)
                    job = order.job(next_offset, size, deadline)
                    if next_offset == 0:
                        await self._admission.submit_paced(version, job)
                    elif not pending:
                        await self._admission.submit_when_room(version, job)
                    elif not self._admission.submit_ahead(version, job):
                        break  # others wait too; what is under way comes first
                    pending.append(_Pending(job, next_offset))
                    next_offset += size
                await self._send_chunk(order, call.output, pending[0], context)
                pending.popleft()
        finally:
            for left in pending:
                version.batcher.drop(left.job)

    async def _send_chunk(
        self,
        order: Order,
        output: Output,
        pending: _Pending,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        job = pending.job
        await done(job)
        answer = messages.StreamGenerateResponse()
        await self._fill(answer, order, output, job, offset=pending.offset)
        current_call.get().images += job.count
        # Returns once flow control has let the chunk go: a slow reader holds us here.
        await context.write(answer)

    async def _fill(
        self,
        answer: messages.GenerateResponse | messages.StreamGenerateResponse,
        order: Order,
        output: Output,
        job: Job,
        *,
        offset: int = 0,
        is_sheet: bool = False,
        columns: int | None = None,
    ) -> None:
        """Writes the images of a job into an answer, in place: copies of messages cost."""
        began = time.perf_counter_ns()
        minted = order.minted(offset, job.class_id, job.count)
        images, shape = job.images, job.images.shape[1:]
        if is_sheet:
            whole = sheet(images, columns)
            images, shape = whole[np.newaxis], whole.shape
            serials = [[image.serial for image in minted if image.serial]]
        else:
            serials = [[image.serial] if image.serial else [] for image in minted]
        version = order.version
        variant = version.backend.variant.name
        batch = answer.batch
        batch.MergeFromString(
            _preamble(
                name=version.spec.name,
                version=version.version,
                bundle_sha256=version.bundle.sha256,
                variant=variant,
                picture_format=output.picture_format,
                is_sheet=is_sheet,
                shape=shape,
            )
        )
        if order.seed is not None:
            batch.seed = order.seed
        encoding = time.perf_counter_ns()
        if output.picture_format is PictureFormat.RAW:
            # A copy of bytes: cheaper than a change of thread.
            batch.pictures.extend([pixels.tobytes() for pixels in images])
        else:
            work = partial(_encoded, images, serials, output, variant)
            loop = asyncio.get_running_loop()
            batch.pictures.extend(await loop.run_in_executor(self._encoders, work))
        took_s = (time.perf_counter_ns() - encoding) / 1e9
        self._encode_duration[output.picture_format].observe(took_s)
        current_call.get().trace_encoding(encoding, output.picture_format.value)
        for image in minted:
            batch.images.add(index=image.index, class_id=image.class_id, serial=image.serial)
        _write_timing(answer.timing, job, time.perf_counter_ns() - began)


def _encoded(
    images: npt.NDArray[np.uint8], serials: list[list[str]], output: Output, variant: str
) -> list[bytes]:
    return [
        encode(pixels, names, output.picture_format, output.quality, variant=variant)
        for pixels, names in zip(images, serials, strict=True)
    ]


def _chunks_ahead(chunk_size: int, image_bytes: int) -> int:
    return max(1, min(_LOOKAHEAD_IMAGES, _LOOKAHEAD_BYTES // image_bytes) // chunk_size)


@lru_cache(maxsize=256)
def _preamble(
    *,
    name: str,
    version: int,
    bundle_sha256: str,
    variant: str,
    picture_format: PictureFormat,
    is_sheet: bool,
    shape: tuple[int, int, int],
) -> bytes:
    """The part of an ImageBatch that many answers share; to read it is faster than to build it."""
    return image_pb2.ImageBatch(
        model=name,
        version=str(version),
        bundle_sha256=bundle_sha256,
        variant=variant,
        format=_FORMATS[picture_format],
        layout=image_pb2.IMAGE_LAYOUT_SHEET if is_sheet else image_pb2.IMAGE_LAYOUT_INDIVIDUAL,
        shape=manifest_pb2.ImageShape(height=shape[0], width=shape[1], channels=shape[2]),
    ).SerializeToString()


def _write_timing(timing: image_pb2.Timing, job: Job, encode_ns: int) -> None:
    computing_ns = job.finished_ns - job.started_ns
    for duration, ns in (
        (timing.queue, job.started_ns - job.accepted_ns),
        # Batches of one job may run side by side, and then their sum exceeds the time they took.
        (timing.batch, max(0, computing_ns - job.inference_ns)),
        (timing.inference, job.inference_ns),
        (timing.encode, encode_ns),
    ):
        duration.seconds, duration.nanos = divmod(ns, _SECOND_NS)
