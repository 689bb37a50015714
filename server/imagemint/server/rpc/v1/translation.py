"""TranslationService: Translate and StreamTranslate."""

import asyncio
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import grpc
import numpy as np

from imagemint.engine.errors import InvalidRequest, Violation
from imagemint.pictures import PictureFormat, encode
from imagemint.server.batching import Job
from imagemint.server.images.decoding_room import DecodingRoom
from imagemint.server.images.sources import (
    LoadedSource,
    SourceLimits,
    load_sources,
    measure_sources,
)
from imagemint.server.images.translation import Part, TranslationRequest, make_translation
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.request_stream import RequestStream
from imagemint.server.rpc.submission import Gate, Submission, get_deadline, wait_for_all
from imagemint.server.rpc.v1.generation import FORMATS, write_timing
from imagemint.server.rpc.v1.requests import Output
from imagemint.server.rpc.v1.translation_requests import (
    TranslateCall,
    check_stream_message,
    get_seed,
    make_translate_request,
    read_translate,
    require_model,
)
from imagemint.server.settings import ServeSettings
from imagemint.server.telemetry.metrics import Metrics, observe_each
from imagemint.v1 import image_pb2, manifest_pb2, translation_service_pb2_grpc
from imagemint.v1 import translation_service_pb2 as messages

_Context = grpc.aio.ServicerContext[Any, Any]


class _Way(NamedTuple):
    """Options for queueing the jobs of a request; see `Submission.submit_all`."""

    streamed: bool = False
    patient: bool = False


class TranslationServicer(translation_service_pb2_grpc.TranslationServiceServicer):
    """Translates sources.

    Args:
        settings: limits of a request.
        repository: the models.
        metrics: the server's metrics.
        gate: tells streams to end.
        encoders: threads that decode sources and encode pictures.
    """

    def __init__(
        self,
        settings: ServeSettings,
        repository: ModelRepository,
        metrics: Metrics,
        gate: Gate,
        encoders: ThreadPoolExecutor,
    ) -> None:
        self._limits = SourceLimits(
            settings.max_source_pixels,
            settings.max_images_per_request,
            settings.max_response_bytes,
        )
        self._submission = Submission(repository, metrics, gate)
        self._encode_durations = {
            each: metrics.backlog.make_buffer(observe_each(metrics.encode_duration.labels(each)))
            for each in PictureFormat
        }
        self._gate = gate
        self._encoders = encoders
        self._decoding = DecodingRoom(encoders, settings.max_bytes_in_flight)
        self._streams: set[RequestStream[messages.StreamTranslateRequest]] = set()
        self._dismissed = False

    async def Translate(  # noqa: N802 - named by the schema
        self, request: messages.TranslateRequest, context: _Context
    ) -> messages.TranslateResponse:
        """Translates the sources of one request."""
        require_model(request.images)
        images = request.images
        with self._submission.hold_version(images.model, images.version) as version:
            call = read_translate(request, version, self._limits)
            return await self._translate(call, context, _Way())

    async def StreamTranslate(  # type: ignore[override] # noqa: N802 - named by the schema; the stub has only the generator form
        self, request_iterator: object, context: _Context
    ) -> None:
        """Answers the messages of a stream in order, and reads a limited number of them ahead.

        Raises:
            Draining: the server shuts down; the accepted messages are answered.
        """
        del request_iterator
        first: Any = await context.read()
        if first is grpc.aio.EOF:
            raise InvalidRequest([Violation("images", "required in the first message")])
        require_model(first.images)
        check_stream_message(first, is_first=True)
        images = first.images
        with self._submission.hold_version(images.model, images.version) as version:
            answer = _Answerer(self._answer_in_stream, version, first).answer
            stream = RequestStream[messages.StreamTranslateRequest](context, answer, self._gate)
            if self._dismissed:
                stream.dismiss()
            self._streams.add(stream)
            try:
                await stream.run()
            finally:
                self._streams.discard(stream)

    def dismiss(self) -> None:
        """Ends current and future streams when they are silent. They may be silent forever."""
        self._dismissed = True
        for stream in self._streams:
            stream.dismiss()

    async def _answer_in_stream(
        self,
        request: messages.TranslateRequest,
        version: ServedVersion,
        context: _Context,
        *,
        patient: bool,
    ) -> messages.StreamTranslateResponse:
        version.stay()
        call = read_translate(request, version, self._limits)
        response = await self._translate(call, context, _Way(streamed=True, patient=patient))
        return messages.StreamTranslateResponse(batch=response.batch, timing=response.timing)

    async def _translate(
        self, call: TranslateCall, context: _Context, way: _Way
    ) -> messages.TranslateResponse:
        """Decodes, translates and encodes the sources of a request."""
        version = call.images.version
        sources, charged = await self._load(call, way)
        request = make_translation(call.images, sources)
        parts = request.make_parts(get_deadline(context))
        jobs = [part.job for part in parts]
        await self._submission.submit_all(version, jobs, charged=charged, **way._asdict())
        await wait_for_all(version.batcher, jobs)
        current_call.get().images += len(sources)
        return await self._answer(request, parts, call.output)

    async def _load(self, call: TranslateCall, way: _Way) -> tuple[list[LoadedSource], int]:
        """Decodes the sources, once there is memory for that and for their results.

        The caller's rate is charged before. A request that is refused for its pictures keeps the
        charge, because decoding is work.

        Returns:
            The sources, and the number of images that were charged.
        """
        began = time.perf_counter_ns()
        version, loop = call.images.version, asyncio.get_running_loop()
        spec, picture_format = version.spec, call.output.picture_format
        measure = partial(
            measure_sources, call.sources, spec, call.fit, self._limits, picture_format
        )
        size, images, decoding_bytes = await loop.run_in_executor(self._encoders, measure)
        piece = asyncio.current_task() if way.streamed else None
        await current_call.get().reserve(size, piece)
        await self._submission.charge(version, images, streamed=way.streamed)
        ended = threading.Event()
        load = partial(
            load_sources, call.sources, spec, call.fit, self._limits.pixels, ended.is_set
        )
        try:
            sources = await self._decoding.run(decoding_bytes, load)
        finally:
            ended.set()  # a thread does not end with the call that waits for it
        current_call.get().trace_decoding(began, len(sources))
        return sources, images

    async def _answer(
        self, request: TranslationRequest, parts: Sequence[Part], output: Output
    ) -> messages.TranslateResponse:
        began = time.perf_counter_ns()
        serials = request.make_serials(parts)
        work = partial(_encode_results, request, parts, serials, output)
        loop = asyncio.get_running_loop()
        pictures = await loop.run_in_executor(self._encoders, work)
        response = messages.TranslateResponse()
        _fill(response.batch, request, parts, output)
        for translation, serial, picture in zip(
            response.batch.translations, serials, pictures, strict=True
        ):
            translation.picture = picture
            translation.image.serial = serial
        took_ns = time.perf_counter_ns() - began
        self._encode_durations[output.picture_format].add(took_ns / 1e9)
        current_call.get().trace_encoding(began, output.picture_format)
        _write_timings(response, [part.job for part in parts], took_ns)
        return response


def _choose_seed(images: image_pb2.ImageSpec) -> int:
    """Returns the seed of a stream, which all its messages share."""
    return images.seed if images.WhichOneof("source") == "seed" else secrets.randbits(64)


class _Answerer:
    """Numbers the sources of a stream, whose messages are answered concurrently."""

    def __init__(
        self,
        answer: Any,  # noqa: ANN401 - `TranslationServicer._answer_in_stream`
        version: ServedVersion,
        first: messages.StreamTranslateRequest,
    ) -> None:
        self._answer = answer
        self._version = version
        self._first = first
        self._seed = _choose_seed(first.images)
        self._next = 0

    async def answer(
        self, request: messages.StreamTranslateRequest, context: _Context, *, patient: bool
    ) -> messages.StreamTranslateResponse:
        """Answers one message."""
        offset = self._next
        self._next += len(request.sources)  # before the first await, so in the order of messages
        check_stream_message(request, is_first=False)
        complete_request = make_translate_request(self._first, request, self._seed, offset)
        response: messages.StreamTranslateResponse = await self._answer(
            complete_request, self._version, context, patient=patient
        )
        return response


def _encode_results(
    request: TranslationRequest, parts: Sequence[Part], serials: Sequence[str], output: Output
) -> list[bytes]:
    variant = request.images.version.backend.variant.name
    return [
        encode(
            pixels,
            [serial] if serial else [],
            output.picture_format,
            output.quality,
            variant=variant,
        )
        for pixels, serial in zip(request.join_results(parts), serials, strict=True)
    ]


def _fill(
    batch: messages.TranslationBatch,
    request: TranslationRequest,
    parts: Sequence[Part],
    output: Output,
) -> None:
    """Writes the metadata of the translations, without pictures and serials."""
    version = request.images.version
    batch.model, batch.version = version.spec.name, str(version.version)
    batch.bundle_sha256 = version.bundle.sha256
    batch.variant = version.backend.variant.name
    batch.format = FORMATS[output.picture_format]
    seed = get_seed(request.images)
    if seed is not None:
        batch.seed = seed
    latents = request.images.latents
    first_index = 0 if isinstance(latents, np.ndarray) else latents[0].first_index
    for part in parts:
        class_ids, captions, _ = part.conditions
        for at in range(part.count):
            source = request.sources[part.offset + at].pixels.shape
            translation = batch.translations.add()
            translation.source.CopyFrom(_make_shape(source))
            translation.shape.CopyFrom(_make_shape(version.spec.make_image_shape(source)))
            translation.image.index = first_index + part.offset + at
            if class_ids is not None:
                translation.image.class_id = class_ids[at]
            if captions is not None:
                translation.image.caption = captions[at]


def _make_shape(shape: tuple[int, ...]) -> manifest_pb2.ImageShape:
    height, width, channels = shape
    return manifest_pb2.ImageShape(height=height, width=width, channels=channels)


def _write_timings(
    response: messages.TranslateResponse, jobs: Sequence[Job], encode_ns: int
) -> None:
    """Writes the joint timing of several jobs."""
    total = Job(0, ())
    total.accepted_ns = min(job.accepted_ns for job in jobs)
    total.started_ns = min(job.started_ns for job in jobs)
    total.finished_ns = max(job.finished_ns for job in jobs)
    total.inference_ns = sum(job.inference_ns for job in jobs)
    write_timing(response.timing, total, encode_ns)
