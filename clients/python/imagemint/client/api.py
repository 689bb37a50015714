"""The client for asyncio. `Client` in `blocking` wraps it."""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

from grpc import aio
from numpy.typing import ArrayLike

from imagemint.client import channel, images, models, requests, streams
from imagemint.client.arguments import parse_number, parse_text, parse_whole_number
from imagemint.client.channel import MetadataLike
from imagemint.client.connection import Connection
from imagemint.client.duplex import DuplexCall, FaithfulCall
from imagemint.client.errors import DeadlineExceeded, Unavailable, make_invalid_request
from imagemint.client.images import EncodedPicture, ImageBatch
from imagemint.client.lifetime import Lifetime
from imagemint.client.models import Model
from imagemint.client.relay import RelayDuplex
from imagemint.client.requests import (
    AnimationFormat,
    Caption,
    Condition,
    Filter,
    Format,
    PerImage,
    Priority,
)
from imagemint.client.resuming import Call, may_repeat
from imagemint.client.serials import (
    REFERENCE,
    Run,
    SerialLike,
    cut_into_runs,
    parse_serials,
    spell_serials,
)
from imagemint.client.translation import (
    Fit,
    Prepared,
    SourceLike,
    Sources,
    Translated,
    group_sources,
    parse_fit,
    parse_translated,
    parse_translated_files,
    prepare_sources,
)
from imagemint.client.translation_stream import Group, TranslationStream
from imagemint.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    image_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    translation_service_pb2_grpc,
)
from imagemint.v1 import translation_service_pb2 as messages

# Number of concurrent calls of one mint(): enough to fill a batch, few enough for the queue.
_CALLS_AT_ONCE = 16
# With no time left, a call would not even be counted as one that is too late.
_SHORTEST_TIMEOUT_S = 1e-3
# gRPC counts a deadline in nanoseconds as int64, so that a later one would have passed already.
_LONGEST_TIMEOUT_S = 1e9

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
TranslationT = TypeVar("TranslationT")


class Selection(TypedDict, total=False):
    """The images of a request: the keywords that generate, stream, sheet and encoded share."""

    seed: int | None
    """Seed, 0 to 2^64 - 1. None (default): the server chooses one and returns it in the answer."""
    first_index: int
    """Index of the first image, 0 by default."""
    condition: Condition
    """The class or caption: None (drawn at random by a model that takes one), an index, a label, or
    PerImage, Cycle, Weights or Caption."""
    truncation: float | None
    """Truncation within the range of the model. None (default): no truncation; 0 is a value."""
    version: str | int | None
    """Version of the model, as a number or its text. Empty or None (default): the server's
    default."""
    variant: str | None
    """Variant that must make the images: a name such as `int8`, or `reference` for model.onnx. A
    server that runs another one refuses. Empty or None (default): the variant that the server runs.
    """
    latents: ArrayLike | None
    """float32 [count, z_dim] instead of a seed. Such images have no serial."""
    image_filter: Filter | None
    """Which images to keep, by the scores of the model's critic. None (default): all of them."""


class AsyncClient:
    """A client of an imagemint server for asyncio.

    Calls raise the errors of `imagemint.client.errors`, and no gRPC errors. If the server is
    unavailable or its queue is full, calls are retried as the service config specifies.

    Each client has its own connection to each target. A server with several processes answers all
    calls of one connection in one process; open more clients to use more processes. A client does
    not work after a fork: create a new one in each child process. It belongs to the event loop of
    its first call: calls in another one raise RuntimeError.

    Args:
        target: "host:port", or several, separated by commas or in a sequence; calls use them in
            turn. `unix:PATH` works too.
        tls: encryption settings; None for plain text.
        timeout_s: default time limit of a call in seconds, including retries; None for no limit.
        api_key: API key, sent with every call as `authorization: Bearer KEY`.
        metadata: pairs or a mapping to send with every call. Values are printable ASCII, or bytes
            if the name ends with `-bin`.

    Raises:
        ValueError: `target` names no server, `timeout_s` is not above 0, gRPC cannot send the key
            or `metadata`, or both hold `authorization`.
        TypeError: an argument has the wrong type.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        tls: channel.Tls | None = None,
        timeout_s: float | None = 30.0,
        api_key: str | None = None,
        metadata: MetadataLike = (),
    ) -> None:
        targets = channel.parse_targets(target)
        self._timeout_s = channel.parse_timeout(timeout_s)
        self._metadata = channel.join_metadata(channel.parse_api_key(api_key), metadata)
        self._lifetime = Lifetime(", ".join(targets))
        self._connection = Connection(targets, channel.check_tls(tls), self._lifetime)

    def with_options(self, *, timeout_s: float | None = None, metadata: MetadataLike = ()) -> Self:
        """Returns a client with other options over the same connection.

        Use it for what belongs to one of your own requests, such as `x-request-id` or
        `traceparent`: `client.with_options(metadata={"x-request-id": id}).generate("mnist")`. It
        costs next to nothing. If you close one of the clients, all of them are closed.

        Args:
            timeout_s: default time limit of a call in seconds; None for that of this client,
                math.inf for no limit.
            metadata: sent with every call, after that of this client. A name replaces the same
                name of this client.

        Raises:
            ValueError: `timeout_s` is not above 0, or gRPC cannot send `metadata`.
            TypeError: an argument has the wrong type.
        """
        other = object.__new__(type(self))
        other.__dict__ = dict(self.__dict__)
        if timeout_s is not None:
            other._timeout_s = channel.parse_timeout(timeout_s)
        other._metadata = channel.join_metadata(self._metadata, metadata, replaces=True)
        return other

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lifetime.server}>"

    def __getstate__(self) -> object:
        """Refuses: a connection belongs to its process, and pickles must not hold credentials."""
        raise TypeError(f"{type(self).__name__} cannot be copied or pickled; create another one")

    async def __aenter__(self) -> Self:
        self._lifetime.check()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Active calls raise ClientClosed. You may close twice."""
        if self._lifetime.forked:
            return  # the connection belongs to the parent
        self._lifetime.closed = True
        await self._connection.close()

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Returns all models of the server, sorted by name."""
        found: list[Model] = []
        page = model_service_pb2.ListModelsRequest()
        while True:
            response = await self._call_unary(
                lambda opened: model_service_pb2_grpc.ModelServiceStub(opened).ListModels,
                page,
                timeout_s,
            )
            found += [models.parse_model(model) for model in response.models]
            if not response.next_page_token:
                return found
            page.page_token = response.next_page_token

    async def model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """Returns one model.

        Raises:
            NotFound: there is no model of this name.
        """
        request = model_service_pb2.GetModelRequest(model=parse_text("name", name))
        response = await self._call_unary(
            lambda opened: model_service_pb2_grpc.ModelServiceStub(opened).GetModel,
            request,
            timeout_s,
        )
        return models.parse_model(response.model)

    async def generate(
        self,
        model: str,
        count: int = 1,
        *,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> ImageBatch:
        """Returns `count` images as pixels, in one answer.

        Args:
            model: model name.
            count: 1 to the model's max_images_per_request; stream() has no limit.
            priority: waiting requests of "high" are served before those of "normal"; the pixels do
                not depend on it.
            timeout_s: seconds for the whole call; None for the client's default, math.inf for no
                limit.
            selection: which images, see Selection.

        Raises:
            InvalidRequest: an argument is wrong; every wrong one is named.
            NotFound: there is no such model or version.
            FailedPrecondition: the request has a class or a caption, and the model takes none.
            ImagemintError: any other failure.
        """
        request = generation_service_pb2.GenerateRequest(
            images=_make_images(model, count, selection), priority=requests.parse_priority(priority)
        )
        response = await self._generate(request, timeout_s)
        return images.parse_image_batch(response.batch, response.timing)

    async def encoded(
        self,
        model: str,
        count: int = 1,
        *,
        format: Format = "png",  # noqa: A002 - the word for it
        quality: int | None = None,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> list[EncodedPicture]:
        """Returns `count` images as files that contain their serials, in one answer.

        Args:
            model: model name.
            count: 1 to the model's max_images_per_request.
            format: png, jpeg or webp.
            quality: 1 to 100 for jpeg and webp, None for the server's default of 90.
            priority: as for generate().
            timeout_s: as for generate().
            selection: which images, see Selection.

        Raises:
            ImagemintError: as generate().
        """
        request = generation_service_pb2.GenerateRequest(
            images=_make_images(model, count, selection),
            output=requests.make_output_spec(format, quality),
            priority=requests.parse_priority(priority),
        )
        response = await self._generate(request, timeout_s)
        return images.parse_pictures(response.batch, response.timing)

    async def sheet(
        self,
        model: str,
        count: int,
        *,
        columns: int | None = None,
        format: Format = "png",  # noqa: A002 - the word for it
        quality: int | None = None,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> EncodedPicture:
        """Returns one picture that shows `count` images, row by row.

        Args:
            model: model name.
            count: 1 to the model's max_images_per_request.
            columns: images in a row, 1 to count; None for the square root, rounded up.
            format: png, jpeg or webp.
            quality: 1 to 100 for jpeg and webp, None for the server's default of 90.
            priority: as for generate().
            timeout_s: as for generate().
            selection: which images, see Selection.

        Raises:
            ImagemintError: as generate().
        """
        request = generation_service_pb2.GenerateRequest(
            images=_make_images(model, count, selection),
            output=requests.make_output_spec(format, quality),
            layout=image_pb2.IMAGE_LAYOUT_SHEET,
            columns=None if columns is None else parse_whole_number("columns", columns),
            priority=requests.parse_priority(priority),
        )
        response = await self._generate(request, timeout_s)
        (picture,) = images.parse_pictures(response.batch, response.timing)
        return picture

    async def translate(
        self,
        model: str,
        sources: Sequence[SourceLike],
        *,
        fit: Fit = "refuse",
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> list[Translated]:
        """Returns the translations of sources as pixels, in order, in one answer.

        Args:
            model: name of a model that takes a source.
            sources: PNG, JPEG or WebP as bytes or paths, Pillow images, pixels uint8 [height,
                width, channels], or `Source` for models of several frames or with a mask.
            fit: what happens to a source of a size that the model does not take: refuse, crop, pad
                or stretch.
            priority: as for generate().
            timeout_s: seconds for the whole call; None for the client's default, math.inf for no
                limit.
            selection: seed, index, class and so on, if the model takes them; see Selection. Source
                number i has the index first_index + i.

        Raises:
            InvalidRequest: an argument is wrong, or a source cannot be decoded or does not fit.
            FailedPrecondition: the model takes no source.
            OSError: a file cannot be read.
            ImagemintError: as generate().
        """
        given = await _prepare(sources)
        request = _make_translation_request(model, given, fit, priority, selection)
        return parse_translated(await self._translate(request, timeout_s))

    async def translate_encoded(
        self,
        model: str,
        sources: Sequence[SourceLike],
        *,
        fit: Fit = "refuse",
        format: Format = "png",  # noqa: A002 - the word for it
        quality: int | None = None,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> list[EncodedPicture]:
        """Returns the translations of sources as files that contain their serials, in one answer.

        Args:
            model: as for translate().
            sources: as for translate().
            fit: as for translate().
            format: png, jpeg or webp.
            quality: 1 to 100 for jpeg and webp, None for the server's default of 90.
            priority: as for generate().
            timeout_s: as for translate().
            selection: as for translate().

        Raises:
            ImagemintError: as translate().
        """
        given = await _prepare(sources)
        request = _make_translation_request(model, given, fit, priority, selection)
        request.output.CopyFrom(requests.make_output_spec(format, quality))
        return parse_translated_files(await self._translate(request, timeout_s))

    def translate_many(
        self,
        model: str,
        sources: Sources,
        *,
        fit: Fit = "refuse",
        format: Format = "png",  # noqa: A002 - the word for it
        quality: int | None = None,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> AsyncGenerator[EncodedPicture, None]:
        """Streams the translations of any number of sources as files, in order.

        Sources are read and sent a little ahead of the consumer. If the server goes away or is too
        busy, the stream resumes with the sources that are not answered, with the same seed and
        version, so each source is answered exactly once. If you leave it early, the server stops
        the work.

        Args:
            model: as for translate().
            sources: as for translate(); read when they are needed. A `Client` reads them in the
                thread that waits for a translation. An `AsyncClient` reads them in its event loop;
                they may also come from an asynchronous iterable, and each of those is sent as soon
                as it is there.
            fit: as for translate().
            format: png, jpeg or webp.
            quality: 1 to 100 for jpeg and webp, None for the server's default of 90.
            priority: priority of every source, as for generate().
            timeout_s: as for stream().
            selection: as for translate(), without latents and PerImage.

        Raises:
            ImagemintError: as translate(). Results of earlier sources come first, except for up to
                seven that the server received in one message with the wrong one.
            OSError: likewise.
        """
        request = _make_translation_stream(model, fit, priority, selection)
        request.output.CopyFrom(requests.make_output_spec(format, quality))
        return self._stream_translations(
            request, group_sources(sources), timeout_s, parse_translated_files
        )

    def translate_stream(
        self,
        model: str,
        sources: Sources,
        *,
        fit: Fit = "refuse",
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> AsyncGenerator[Translated, None]:
        """Streams the translations of any number of sources as pixels, in order.

        Args:
            model: as for translate().
            sources: as for translate_many().
            fit: as for translate().
            priority: as for translate_many().
            timeout_s: as for stream().
            selection: as for translate_many().

        Raises:
            ImagemintError: as translate_many().
            OSError: likewise.
        """
        request = _make_translation_stream(model, fit, priority, selection)
        return self._stream_translations(
            request, group_sources(sources), timeout_s, parse_translated
        )

    async def _stream_translations(
        self,
        request: messages.StreamTranslateRequest,
        groups: Iterator[Group] | AsyncIterator[Group],
        timeout_s: float | None,
        parse: Callable[[messages.StreamTranslateResponse], list[TranslationT]],
    ) -> AsyncGenerator[TranslationT, None]:
        async def open_call() -> DuplexCall:
            opened = await self._connection.open(None)
            stub = translation_service_pb2_grpc.TranslationServiceStub(opened)
            call: Any = stub.StreamTranslate(metadata=self._metadata)
            return call if isinstance(call, RelayDuplex) else FaithfulCall(call)

        stream = TranslationStream(
            open_call,
            request,
            groups,
            lifetime=self._lifetime,
            timeout_s=self._choose_timeout(timeout_s),
        )
        try:
            async with aclosing(stream.read_responses()) as responses:
                async for response in responses:
                    for each in parse(response):
                        yield each
        finally:
            stream.stop_reading()

    async def mint(
        self, serial: SerialLike | Sequence[SerialLike], *, timeout_s: float | None = None
    ) -> ImageBatch:
        """Returns the images of one or many serial numbers, always with the same pixels.

        Consecutive indices share a call, and several calls run in parallel.

        Args:
            serial: a serial number, as text or parsed, or any number of them of one model, version
                and variant, in any order.
            timeout_s: seconds for each call that it takes; None for the client's default.

        Returns:
            The images in the order of the serial numbers. Its `seed` is None if they differ in it.

        Raises:
            InvalidRequest: a text is not a serial number, there is none, or they belong to several
                models, versions or variants.
            FailedPrecondition: the server runs another variant, whose pixels would be different.
            NotFound: the server no longer has that model or version.
            ImagemintError: as generate().
        """
        serials = parse_serials(serial)
        limit = 1
        if len(serials) > 1:
            model = await self.model(serials[0].model, timeout_s=timeout_s)
            limit = model.limits.max_images_per_request
        runs = cut_into_runs(serials, lambda _: limit)
        gate = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def generate_run(run: Run) -> ImageBatch:
            async with gate:
                return await self.generate(
                    run.first.model, len(run), timeout_s=timeout_s, **run_selection(run)
                )

        tasks = [asyncio.ensure_future(generate_run(run)) for run in runs]
        try:
            batches = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return images.join_batches(batches, [at for run in runs for at in run.positions])

    def stream(
        self,
        model: str,
        count: int,
        *,
        chunk_size: int | None = None,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> AsyncGenerator[ImageBatch, None]:
        """Streams any number of images as pixels, in chunks, each index exactly once.

        If the server goes away or is too busy, the stream resumes from the next index with the same
        seed and version. If you leave it early, the server stops the work.

        Args:
            model: model name.
            count: number of images, 1 or more.
            chunk_size: images in a chunk, 1 to the model's max_images_per_request; None for the
                server's choice. The pixels do not depend on it.
            priority: priority of every chunk, as for generate().
            timeout_s: seconds from asking for a chunk until it arrives, including all attempts to
                reach a server that went away; the stream as a whole has no deadline. None for the
                client's default.
            selection: which images, see Selection.

        Raises:
            ImagemintError: as generate().
        """
        request = _make_stream_request(model, count, chunk_size, priority, selection)
        return self._stream_batches(request, timeout_s)

    def stream_encoded(
        self,
        model: str,
        count: int,
        *,
        format: Format = "png",  # noqa: A002 - the word for it
        quality: int | None = None,
        chunk_size: int | None = None,
        priority: Priority = "normal",
        timeout_s: float | None = None,
        **selection: Unpack[Selection],
    ) -> AsyncGenerator[list[EncodedPicture], None]:
        """Streams any number of images as files that contain their serials, in chunks.

        Args:
            model: model name.
            count: number of images, 1 or more.
            format: png, jpeg or webp.
            quality: 1 to 100 for jpeg and webp, None for the server's default of 90.
            chunk_size: as for stream().
            priority: as for stream().
            timeout_s: as for stream().
            selection: which images, see Selection.

        Raises:
            ImagemintError: as generate().
        """
        request = _make_stream_request(model, count, chunk_size, priority, selection)
        request.output.CopyFrom(requests.make_output_spec(format, quality))
        return self._stream_pictures(request, timeout_s)

    def interpolate(
        self,
        serials: Sequence[SerialLike],
        frames: int = 60,
        *,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ImageBatch, None]:
        """Streams the images on the path through the latents of serial numbers, in chunks.

        Args:
            serials: serial numbers of one model, version and variant, as text or parsed, 2 to 64.
            frames: images on the whole path, both ends included. The first and the last have the
                pixels of the first and the last serial number.
            priority: as for generate().
            timeout_s: seconds for the whole call; None for the client's default, math.inf for no
                limit.

        Raises:
            ImagemintError: as generate().
        """
        request = _make_path_request(serials, frames, priority)
        return self._stream_frames(request, timeout_s)

    async def animate(
        self,
        serials: Sequence[SerialLike],
        frames: int = 60,
        *,
        format: AnimationFormat = "webp",  # noqa: A002 - the word for it
        quality: int | None = None,
        frame_ms: int = 50,
        bounces: bool = False,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> bytes:
        """Returns the path of interpolate() as one animated picture.

        Args:
            serials: as for interpolate().
            frames: as for interpolate().
            format: webp, gif or apng.
            quality: 1 to 100 for webp, None for the server's default of 90.
            frame_ms: time of one frame in milliseconds, 10 to 10,000.
            bounces: whether to show the frames forwards and then backwards.
            priority: as for generate().
            timeout_s: seconds for the whole call; None for the client's default, math.inf for no
                limit.

        Raises:
            ImagemintError: as generate().
        """
        request = _make_path_request(serials, frames, priority)
        request.animation.CopyFrom(
            requests.make_animation_spec(format, quality, frame_ms, bounces=bounces)
        )
        async with aclosing(self._walk(request, timeout_s)) as chunks:
            return b"".join([chunk.animation async for chunk in chunks])

    async def _stream_frames(
        self, request: generation_service_pb2.InterpolateRequest, timeout_s: float | None
    ) -> AsyncGenerator[ImageBatch, None]:
        async with aclosing(self._walk(request, timeout_s)) as chunks:
            async for chunk in chunks:
                yield images.parse_image_batch(chunk.batch, chunk.timing)

    async def _walk(
        self, request: generation_service_pb2.InterpolateRequest, timeout_s: float | None
    ) -> AsyncGenerator[generation_service_pb2.InterpolateResponse, None]:
        timeout_s = self._choose_timeout(timeout_s)
        deadline = _compute_deadline(timeout_s)
        failures, has_begun = 0, False
        while True:
            try:
                async with aclosing(self._walk_once(request, timeout_s, deadline)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except Unavailable as error:
                failures += 1
                if has_begun or not may_repeat(error, failures):
                    raise
            else:
                return

    async def _walk_once(
        self,
        request: generation_service_pb2.InterpolateRequest,
        timeout_s: float | None,
        deadline: float | None,
    ) -> AsyncGenerator[generation_service_pb2.InterpolateResponse, None]:
        opened, left_s = await self._connect(deadline)
        stub = generation_service_pb2_grpc.GenerationServiceStub(opened)
        with self._lifetime.translate(timeout_s):
            call = stub.Interpolate(request, timeout=left_s, metadata=self._metadata)
        try:
            while True:
                with self._lifetime.translate(timeout_s):
                    chunk = await call.read()
                if not isinstance(chunk, generation_service_pb2.InterpolateResponse):
                    return
                yield chunk
        finally:
            if not self._lifetime.forked:
                call.cancel()

    async def _stream_batches(
        self, request: streams.Request, timeout_s: float | None
    ) -> AsyncGenerator[ImageBatch, None]:
        async with aclosing(await self._stream(request, timeout_s)) as chunks:
            async for chunk in chunks:
                yield images.parse_image_batch(chunk.batch, chunk.timing)

    async def _stream_pictures(
        self, request: streams.Request, timeout_s: float | None
    ) -> AsyncGenerator[list[EncodedPicture], None]:
        async with aclosing(await self._stream(request, timeout_s)) as chunks:
            async for chunk in chunks:
                yield images.parse_pictures(chunk.batch, chunk.timing)

    async def _stream(
        self, request: streams.Request, timeout_s: float | None
    ) -> AsyncGenerator[streams.Response, None]:
        async def open_call(request: streams.Request) -> Call:
            opened = await self._connection.open(None)
            stub = generation_service_pb2_grpc.GenerationServiceStub(opened)
            return stub.StreamGenerate(request, metadata=self._metadata)

        return streams.resume_stream(
            open_call,
            request,
            lifetime=self._lifetime,
            timeout_s=self._choose_timeout(timeout_s),
        )

    async def _generate(
        self, request: generation_service_pb2.GenerateRequest, timeout_s: float | None
    ) -> generation_service_pb2.GenerateResponse:
        return await self._call_unary(
            lambda opened: generation_service_pb2_grpc.GenerationServiceStub(opened).Generate,
            request,
            timeout_s,
        )

    async def _translate(
        self, request: messages.TranslateRequest, timeout_s: float | None
    ) -> messages.TranslateResponse:
        return await self._call_unary(
            lambda opened: translation_service_pb2_grpc.TranslationServiceStub(opened).Translate,
            request,
            timeout_s,
        )

    async def _call_unary(
        self,
        method: Callable[[aio.Channel], aio.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        timeout_s: float | None,
    ) -> ResponseT:
        timeout_s = self._choose_timeout(timeout_s)
        deadline = _compute_deadline(timeout_s)
        failures = 0
        while True:
            opened, left_s = await self._connect(deadline)
            try:
                with self._lifetime.translate(timeout_s):
                    return await method(opened)(request, timeout=left_s, metadata=self._metadata)
            except Unavailable as error:
                failures += 1
                if not may_repeat(error, failures):
                    raise

    async def _connect(self, deadline: float | None) -> tuple[aio.Channel, float | None]:
        """Returns the channel, and how many seconds are left until the deadline of a call."""
        opened = await self._connection.open(_compute_left_s(deadline))
        return opened, _compute_left_s(deadline)

    def _choose_timeout(self, timeout_s: float | None) -> float | None:
        """Returns the seconds that a call may take; None for no limit.

        Raises:
            InvalidRequest: it is not a number.
            DeadlineExceeded: it is not above 0. gRPC would send some of such calls nevertheless.
        """
        seconds = self._timeout_s if timeout_s is None else parse_number("timeout_s", timeout_s)
        if seconds is None or seconds > _LONGEST_TIMEOUT_S:
            return None
        if math.isnan(seconds):
            raise make_invalid_request("timeout_s", f"{seconds} is not a time")
        if seconds <= 0:
            raise DeadlineExceeded(f"no time is left for the call: timeout_s is {seconds:g}")
        return seconds


def _compute_deadline(timeout_s: float | None) -> float | None:
    """Returns the time at which a call that begins now must end; None for no limit."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def _compute_left_s(deadline: float | None) -> float | None:
    """Returns the seconds until a deadline, at least the shortest timeout that gRPC sends."""
    return None if deadline is None else max(deadline - time.monotonic(), _SHORTEST_TIMEOUT_S)


async def _prepare(sources: Sequence[SourceLike] | Prepared) -> Prepared:
    """Returns the messages of the sources of one call, which a `Client` has made already."""
    if isinstance(sources, Prepared):
        return sources
    # A picture of many pixels takes seconds to encode, and files may be slow to read.
    return await asyncio.to_thread(prepare_sources, sources)


def _make_path_request(
    serials: Sequence[SerialLike], frames: int, priority: Priority
) -> generation_service_pb2.InterpolateRequest:
    """Returns the request for a path; the server checks the serial numbers.

    Raises:
        InvalidRequest: an argument does not fit the message.
    """
    if isinstance(serials, str):
        raise make_invalid_request(
            "serials", "interpolation needs two or more serial numbers, not one text"
        )
    return generation_service_pb2.InterpolateRequest(
        serials=spell_serials("serials", serials),
        frames=parse_whole_number("frames", frames),
        priority=requests.parse_priority(priority),
    )


def run_selection(run: Run) -> Selection:
    """Returns the selection for a run of serial numbers."""
    first, class_ids = run.first, run.class_ids
    condition: Condition = None
    if class_ids:
        condition = class_ids[0] if len(set(class_ids)) == 1 else PerImage(class_ids)
    elif first.caption is not None:
        condition = Caption(first.caption)
    return Selection(
        seed=first.seed,
        first_index=first.index,
        condition=condition,
        truncation=first.truncation,
        version=first.version,
        variant=first.variant or REFERENCE,
    )


def _make_images(model: str, count: int, selection: Selection) -> image_pb2.ImageSpec:
    known = Selection.__annotations__
    for name in selection:
        if name not in known:
            # Python's own message would name a function that the caller does not know.
            raise TypeError(
                f"{name!r} is no keyword argument of this method, nor of a Selection, which has"
                f" {', '.join(known)}"
            )
    return requests.make_image_spec(model, count, **selection)


def _make_translation_request(
    model: str,
    sources: Sequence[messages.Source],
    fit: Fit,
    priority: Priority,
    selection: Selection,
) -> messages.TranslateRequest:
    return messages.TranslateRequest(
        images=_make_images(model, len(sources), selection),
        sources=sources,
        fit=parse_fit(fit),
        priority=requests.parse_priority(priority),
    )


def _make_translation_stream(
    model: str, fit: Fit, priority: Priority, selection: Selection
) -> messages.StreamTranslateRequest:
    """Returns the first message of a stream. All its calls have one seed.

    Raises:
        InvalidRequest: an argument is wrong, or lists a value for each source.
    """
    if selection.get("latents") is not None or isinstance(selection.get("condition"), PerImage):
        raise make_invalid_request("selection", "latents and PerImage need translate(), one call")
    options = Selection(**selection)
    if options.get("seed") is None:
        options["seed"] = secrets.randbits(64)
    return messages.StreamTranslateRequest(
        images=_make_images(model, 0, options),
        fit=parse_fit(fit),
        priority=requests.parse_priority(priority),
    )


def _make_stream_request(
    model: str, count: int, chunk_size: int | None, priority: Priority, selection: Selection
) -> streams.Request:
    return streams.Request(
        images=_make_images(model, count, selection),
        chunk_size=None if chunk_size is None else parse_whole_number("chunk_size", chunk_size),
        priority=requests.parse_priority(priority),
    )
