"""GenerationService: Generate and StreamGenerate."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeAlias

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
from imagemint.server.rpc.filtering import Filtering, ScoredImages
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
    require_model,
)
from imagemint.server.telemetry.metrics import Metrics, observe_each
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import generation_service_pb2_grpc, image_pb2, manifest_pb2

FORMATS = {
    PictureFormat.RAW: image_pb2.IMAGE_FORMAT_RAW,
    PictureFormat.PNG: image_pb2.IMAGE_FORMAT_PNG,
    PictureFormat.JPEG: image_pb2.IMAGE_FORMAT_JPEG,
    PictureFormat.WEBP: image_pb2.IMAGE_FORMAT_WEBP,
}
# Most images in the first chunk of a stream that names no chunk size; fewer if they are large. They
# are ready after one small batch, and later chunks are larger.
_FIRST_CHUNK = 16
_SECOND_NS = 1_000_000_000

_Response: TypeAlias = messages.GenerateResponse | messages.StreamGenerateResponse


class Chunk(NamedTuple):
    """The images of one answer."""

    image_request: ImageRequest
    job: Job
    offset: int
    """Position of the first image in the request."""
    first_index: int
    """Index of the first image, which explicit latents have too."""
    scored: ScoredImages | None = None
    """The scores, and the images that the filter chose; None without a filter."""

    @property
    def version(self) -> ServedVersion:
        """The version that computes the images."""
        return self.image_request.version

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """The pixels, uint8 [N, H, W, C]."""
        return self.job.images if self.scored is None else self.scored.images

    def make_serials(self) -> list[str]:
        """Returns the serial of each image; empty texts for explicit latents."""
        job, chosen = self.job, None if self.scored is None else self.scored.runs
        return self.image_request.make_serials(self.offset, job.count, job.conditions, chosen)


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Generates images.

    Args:
        repository: the models.
        metrics: the server's metrics.
        gate: tells streams to end.
        encoders: threads that encode pictures and compute scores.
    """

    def __init__(
        self,
        repository: ModelRepository,
        metrics: Metrics,
        gate: Gate,
        encoders: ThreadPoolExecutor,
    ) -> None:
        self._submission = Submission(repository, metrics, gate)
        self._filtering = Filtering(self._submission, encoders)
        self._repository = repository
        self._encode_durations = {
            each: metrics.backlog.make_buffer(observe_each(metrics.encode_duration.labels(each)))
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
        require_model(request)
        images = request.images
        with self._submission.hold_version(images.model, images.version) as version:
            image_request, output, is_sheet, columns = read_generate(request, version)
            job = image_request.make_job(0, image_request.count, get_deadline(context))
            await self._submission.submit(version, job)
            await wait_or_drop(version.batcher, job)
            current_call.get().images = image_request.count
            response = messages.GenerateResponse()
            chunk = await self._apply_filter(Chunk(image_request, job, 0, images.first_index))
            if output.picture_format is PictureFormat.RAW:
                self._fill_raw(response, chunk)
            else:
                await self._fill(response, chunk, output, is_sheet=is_sheet, columns=columns)
            return response

    async def StreamGenerate(  # type: ignore[override] # noqa: N802 - named by the schema; the stub has only the generator form
        self,
        request: messages.StreamGenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Sends the images in chunks, and computes a limited number of them ahead of the reader."""
        require_model(request)
        images = request.images
        with self._submission.hold_version(images.model, images.version) as version:
            call = read_stream(request, version)
            first = most = call.chunk_size
            if not request.HasField("chunk_size"):
                most = current_caller.get().choose_chunk_size(most)
                small = UNPROVEN_BYTES // version.spec.image_bytes
                first = max(1, min(_FIRST_CHUNK, small, most))
            await self._stream(call, images.first_index, (first, most), context)

    async def _stream(
        self,
        call: StreamCall,
        first_index: int,
        sizes: tuple[int, int],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Sends chunks of the first size, then twice as many images, up to the second size."""
        image_request, version = call.image_request, call.image_request.version
        chunk_size, most = sizes
        deadline = get_deadline(context)
        ahead = Lookahead(version, most)
        try:
            while ahead.next_offset < image_request.count or ahead.pending:
                self._gate.raise_if_expiring()
                version.stay()
                while ahead.next_offset < image_request.count and ahead.has_room(chunk_size):
                    offset = ahead.next_offset
                    job = image_request.make_job(
                        offset, min(chunk_size, image_request.count - offset), deadline
                    )
                    if offset == 0:
                        await self._submission.submit(version, job, offset)
                    elif not ahead.pending:
                        await self._submission.submit_when_room(version, job, offset)
                    elif not self._submission.submit_ahead(version, job, offset):
                        break  # others wait too; chunks in progress come first
                    ahead.add(job)
                    chunk_size = min(2 * chunk_size, most)
                    await asyncio.sleep(0)  # hundreds of small chunks may fit
                job, offset = ahead.pending[0].job, ahead.pending[0].offset
                chunk = Chunk(image_request, job, offset, first_index + offset)
                await ahead.send_next(context, await self._answer_chunk(chunk, call.output))
        finally:
            ahead.drop()

    async def _answer_chunk(self, chunk: Chunk, output: Output) -> messages.StreamGenerateResponse:
        """Waits for a chunk of a stream and returns the response with it."""
        await wait_for_job(chunk.job)
        chunk = await self._apply_filter(chunk)
        response = messages.StreamGenerateResponse()
        if output.picture_format is PictureFormat.RAW:
            self._fill_raw(response, chunk)
        else:
            await self._fill(response, chunk, output)
        current_call.get().images += chunk.job.count
        return response

    async def _apply_filter(self, chunk: Chunk) -> Chunk:
        """Returns a completed chunk after the filter of its request, if there is one."""
        request = chunk.image_request
        if request.image_filter is None:
            return chunk
        scored = await self._filtering.apply(request.image_filter, request, chunk.job, chunk.offset)
        return chunk._replace(scored=scored)

    def _fill_raw(self, response: _Response, chunk: Chunk) -> None:
        """Writes the images of a job into a response. Copies of bytes need no other thread."""
        began = time.perf_counter_ns()
        job, images = chunk.job, chunk.images
        preamble = _get_preamble(chunk.version, PictureFormat.RAW, images.shape[1:])
        response.batch.MergeFromString(preamble)
        response.batch.pictures.extend([pixels.tobytes() for pixels in images])
        _list_images(response.batch, chunk, chunk.make_serials())
        self._count_encoding(response, job, PictureFormat.RAW, began)

    async def _fill(
        self,
        response: _Response,
        chunk: Chunk,
        output: Output,
        *,
        is_sheet: bool = False,
        columns: int | None = None,
    ) -> None:
        """Writes the images of a job into a response as pictures, encoded on other threads."""
        began = time.perf_counter_ns()
        serials = chunk.make_serials()
        known_serials = [serial for serial in serials if serial]
        images, names = chunk.images, [[serial] if serial else [] for serial in serials]
        if is_sheet:
            images, names = tile_images(images, columns)[np.newaxis], [known_serials]
        batch, version, shape = response.batch, chunk.version, images.shape[1:]
        batch.MergeFromString(
            _get_preamble(version, output.picture_format, shape, is_sheet=is_sheet)
        )
        work = partial(_encode_images, images, names, output, version.backend.variant.name)
        loop = asyncio.get_running_loop()
        batch.pictures.extend(await loop.run_in_executor(self._encoders, work))
        _list_images(batch, chunk, serials)
        self._count_encoding(response, chunk.job, output.picture_format, began)

    def _count_encoding(
        self, response: _Response, job: Job, picture_format: PictureFormat, began_ns: int
    ) -> None:
        took_ns = time.perf_counter_ns() - began_ns
        self._encode_durations[picture_format].add(took_ns / 1e9)
        call = current_call.get()
        if call.span is not None:
            call.trace_encoding(began_ns, picture_format)
        write_timing(response.timing, job, took_ns)


def _list_images(batch: image_pb2.ImageBatch, chunk: Chunk, serials: Sequence[str]) -> None:
    """Writes the seed, and the metadata of each image."""
    latents, conditions = chunk.image_request.latents, chunk.job.conditions
    if not isinstance(latents, np.ndarray):
        batch.seed = latents[0].seed
    unknown = [None] * len(serials)
    add, index = batch.images.add, chunk.first_index
    for serial, class_id, caption in zip(
        serials, conditions.class_id or unknown, conditions.captions or unknown, strict=True
    ):
        add(index=index, class_id=class_id, serial=serial, caption=caption)
        index += 1
    if chunk.scored is not None:
        _write_scores(batch, chunk.scored)


def _write_scores(batch: image_pb2.ImageBatch, scored: ScoredImages) -> None:
    scores = {name: values.tolist() for name, values in scored.scores.by_name().items()}
    for at, (image, rejected) in enumerate(zip(batch.images, scored.rejected, strict=True)):
        own = {name: values[at] for name, values in scores.items()}
        image.scores.CopyFrom(image_pb2.ImageScores(rejected=rejected, **own))


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
        format=FORMATS[picture_format],
        layout=layout,
        shape=manifest_pb2.ImageShape(height=height, width=width, channels=channels),
    ).SerializeToString()


def write_timing(timing: image_pb2.Timing, job: Job, encode_ns: int) -> None:
    """Writes the times of the phases of a finished job."""
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
