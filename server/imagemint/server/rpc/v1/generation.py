"""GenerationService: Generate and StreamGenerate."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt

from imagemint.pictures import PictureFormat, encode
from imagemint.server.access.caller import current_caller
from imagemint.server.batching import Job
from imagemint.server.images.contact_sheet import tile_images
from imagemint.server.images.request import ImageRequest
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.lookahead import UNPROVEN_BYTES, Lookahead
from imagemint.server.rpc.submission import (
    Gate,
    Submission,
    get_deadline,
    wait_for_job,
    wait_or_drop,
)
from imagemint.server.rpc.v1.requests import (
    Output,
    StreamCall,
    read_generate,
    read_stream,
)
from imagemint.server.telemetry.metrics import Metrics
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import generation_service_pb2_grpc, image_pb2, manifest_pb2

_FORMATS = {
    PictureFormat.RAW: image_pb2.IMAGE_FORMAT_RAW,
    PictureFormat.PNG: image_pb2.IMAGE_FORMAT_PNG,
    PictureFormat.JPEG: image_pb2.IMAGE_FORMAT_JPEG,
    PictureFormat.WEBP: image_pb2.IMAGE_FORMAT_WEBP,
}
# Most images in the first chunk of a stream that names no chunk size; fewer if they are large. They
# are ready after one small batch, and later chunks are larger.
_FIRST_CHUNK = 16
_SECOND_NS = 1_000_000_000

_Answer: TypeAlias = messages.GenerateResponse | messages.StreamGenerateResponse


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Generates images.

    Args:
        repository: the models.
        metrics: the server's metrics.
        gate: tells streams to end.
        encoders: threads that encode pictures.
    """

    def __init__(
        self,
        repository: ModelRepository,
        metrics: Metrics,
        gate: Gate,
        encoders: ThreadPoolExecutor,
    ) -> None:
        self._submission = Submission(repository, metrics, gate)
        self._repository = repository
        self._encode_durations = {
            each: metrics.backlog.later(metrics.encode_duration.labels(each).observe_all)
            for each in PictureFormat
        }
        self._gate = gate
        self._encoders = encoders

    async def Generate(  # noqa: N802 - named by the schema
        self,
        request: messages.GenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> messages.GenerateResponse:
        """Answers one request for a limited number of images."""
        self._submission.name_model(request.images.model)
        with self._submission.hold_version(
            lambda: read_generate(request, self._repository)
        ) as call:
            image_request = call.image_request
            job = image_request.make_job(0, image_request.count, get_deadline(context))
            await self._submission.submit(image_request.version, job)
            await wait_or_drop(image_request.version.batcher, job)
            current_call.get().images = image_request.count
            answer = messages.GenerateResponse()
            if call.output.picture_format is PictureFormat.RAW:
                self._fill_raw(answer, image_request, job, 0)
            else:
                columns = call.columns if call.sheet else None
                await self._fill(
                    answer, image_request, call.output, job, 0, is_sheet=call.sheet, columns=columns
                )
            return answer

    async def StreamGenerate(  # type: ignore[override] # noqa: N802 - named by the schema; the stub has only the generator form
        self,
        request: messages.StreamGenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Sends the images in chunks, and computes a limited number of them ahead of the reader."""
        self._submission.name_model(request.images.model)
        with self._submission.hold_version(lambda: read_stream(request, self._repository)) as call:
            first = most = call.chunk_size
            if not request.HasField("chunk_size"):
                most = current_caller.get().chunk_size(most)
                small = UNPROVEN_BYTES // call.version.spec.image_bytes
                first = max(1, min(_FIRST_CHUNK, small, most))
            await self._stream(call, first, most, context)

    async def _stream(
        self, call: StreamCall, first: int, most: int, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Sends chunks of `first` images, then twice as many, and so on up to `most`."""
        image_request, version = call.image_request, call.version
        chunk_size = first
        deadline = get_deadline(context)
        ahead = Lookahead(version, most)
        try:
            while ahead.next_offset < image_request.count or ahead.pending:
                self._gate.raise_if_expiring()
                image_request.version.stay()
                while ahead.next_offset < image_request.count and ahead.has_room(chunk_size):
                    offset = ahead.next_offset
                    job = image_request.make_job(
                        offset, min(chunk_size, image_request.count - offset), deadline
                    )
                    if offset == 0:
                        await self._submission.submit_paced(version, job, offset)
                    elif not ahead.pending:
                        await self._submission.submit_when_room(version, job, offset)
                    elif not self._submission.submit_ahead(version, job, offset):
                        break  # others wait too; chunks in progress come first
                    ahead.add(job)
                    chunk_size = min(2 * chunk_size, most)
                    await asyncio.sleep(0)  # hundreds of small chunks may fit
                await ahead.send_next(
                    context, await self._make_chunk(image_request, call.output, ahead)
                )
        finally:
            ahead.drop()

    async def _make_chunk(
        self, image_request: ImageRequest, output: Output, ahead: Lookahead
    ) -> messages.StreamGenerateResponse:
        """Waits for the next chunk of a stream and returns the answer with it."""
        job, offset = ahead.pending[0].job, ahead.pending[0].offset
        await wait_for_job(job)
        answer = messages.StreamGenerateResponse()
        if output.picture_format is PictureFormat.RAW:
            self._fill_raw(answer, image_request, job, offset)
        else:
            await self._fill(answer, image_request, output, job, offset)
        current_call.get().images += job.count
        return answer

    def _fill_raw(
        self, answer: _Answer, image_request: ImageRequest, job: Job, offset: int
    ) -> None:
        """Writes the images of a job into an answer. Copies of bytes need no other thread."""
        began = time.perf_counter_ns()
        classes = _list_classes(job)
        batch = answer.batch
        batch.MergeFromString(
            _get_preamble(image_request.version, PictureFormat.RAW, job.images.shape[1:])
        )
        if image_request.seed is not None:
            batch.seed = image_request.seed
        batch.pictures.extend([pixels.tobytes() for pixels in job.images])
        _list_images(
            batch, image_request, offset, classes, image_request.make_serials(offset, classes)
        )
        self._count_encoding(answer, job, PictureFormat.RAW, began)

    async def _fill(
        self,
        answer: _Answer,
        image_request: ImageRequest,
        output: Output,
        job: Job,
        offset: int,
        *,
        is_sheet: bool = False,
        columns: int | None = None,
    ) -> None:
        """Writes the images of a job into an answer as pictures, encoded on other threads."""
        began = time.perf_counter_ns()
        classes = _list_classes(job)
        serials = image_request.make_serials(offset, classes)
        named = [serial for serial in serials if serial]
        images, names = job.images, [[serial] if serial else [] for serial in serials]
        if is_sheet:
            images, names = tile_images(images, columns)[np.newaxis], [named]
        batch = answer.batch
        batch.MergeFromString(
            _get_preamble(
                image_request.version, output.picture_format, images.shape[1:], is_sheet=is_sheet
            )
        )
        if image_request.seed is not None:
            batch.seed = image_request.seed
        work = partial(
            _encode_images, images, names, output, image_request.version.backend.variant.name
        )
        loop = asyncio.get_running_loop()
        batch.pictures.extend(await loop.run_in_executor(self._encoders, work))
        _list_images(batch, image_request, offset, classes, serials)
        self._count_encoding(answer, job, output.picture_format, began)

    def _count_encoding(
        self, answer: _Answer, job: Job, picture_format: PictureFormat, began_ns: int
    ) -> None:
        took_ns = time.perf_counter_ns() - began_ns
        self._encode_durations[picture_format].add(took_ns / 1e9)
        call = current_call.get()
        if call.span is not None:
            call.trace_encoding(began_ns, picture_format)
        _write_timing(answer.timing, job, took_ns)


def _list_classes(job: Job) -> Sequence[int | None]:
    return [None] * job.count if job.class_id is None else job.class_id


def _list_images(
    batch: image_pb2.ImageBatch,
    image_request: ImageRequest,
    offset: int,
    classes: Sequence[int | None],
    serials: Sequence[str],
) -> None:
    add, index = batch.images.add, image_request.first_index + offset
    for class_id, serial in zip(classes, serials, strict=True):
        add(index=index, class_id=class_id, serial=serial)
        index += 1


def _encode_images(
    images: npt.NDArray[np.uint8], serials: list[list[str]], output: Output, variant: str
) -> list[bytes]:
    return [
        encode(pixels, names, output.picture_format, output.quality, variant=variant)
        for pixels, names in zip(images, serials, strict=True)
    ]


def _get_preamble(
    version: ServedVersion,
    picture_format: PictureFormat,
    shape: tuple[int, ...],
    *,
    is_sheet: bool = False,
) -> bytes:
    """Returns the part of an ImageBatch that answers share; parsing is faster than building."""
    if is_sheet:  # of any size, so a cache would grow without limit
        return _build_preamble(version, picture_format, shape, image_pb2.IMAGE_LAYOUT_SHEET)
    built = version.preambles.get(picture_format)
    if built is None:
        built = _build_preamble(version, picture_format, shape, image_pb2.IMAGE_LAYOUT_INDIVIDUAL)
        version.preambles[picture_format] = built
    return built


def _build_preamble(
    version: ServedVersion,
    picture_format: PictureFormat,
    shape: tuple[int, ...],
    layout: image_pb2.ImageLayout.ValueType,
) -> bytes:
    height, width, channels = shape
    return image_pb2.ImageBatch(
        model=version.spec.name,
        version=str(version.version),
        bundle_sha256=version.bundle.sha256,
        variant=version.backend.variant.name,
        format=_FORMATS[picture_format],
        layout=layout,
        shape=manifest_pb2.ImageShape(height=height, width=width, channels=channels),
    ).SerializeToString()


def _write_timing(timing: image_pb2.Timing, job: Job, encode_ns: int) -> None:
    computing_ns = job.finished_ns - job.started_ns
    # Batches of one job may run in parallel, and the sum of their times may then exceed the
    # duration.
    around_ns = max(0, computing_ns - job.inference_ns)
    queue_ns = job.started_ns - job.accepted_ns
    timing.queue.nanos = queue_ns % _SECOND_NS
    timing.batch.nanos = around_ns % _SECOND_NS
    timing.inference.nanos = job.inference_ns % _SECOND_NS
    timing.encode.nanos = encode_ns % _SECOND_NS
    if queue_ns + computing_ns + job.inference_ns + encode_ns >= _SECOND_NS:  # rarely
        timing.queue.seconds = queue_ns // _SECOND_NS
        timing.batch.seconds = around_ns // _SECOND_NS
        timing.inference.seconds = job.inference_ns // _SECOND_NS
        timing.encode.seconds = encode_ns // _SECOND_NS
