"""An imagemint server as a target: requests are serialised beforehand, and never retried.

Client and server often share the cores in a comparison, so a call costs as little Python as gRPC's
asyncio client allows: no arrays, no decoding of pictures.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from imagemint.bench.calls import Calls, open_calls
from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Reply, Streaming, Unary
from imagemint.client.channel import Tls
from imagemint.client.requests import (
    Caption,
    Condition,
    Cycle,
    make_image_spec,
    make_output_spec,
    parse_priority,
)
from imagemint.client.translation import make_source_message, parse_fit
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2
from imagemint.v1 import translation_service_pb2 as translation

# Number of different requests of one kind, used in turn: enough that caches do not improve the
# results, few enough to be prepared quickly.
POOL = 512

_SERVICE = "/imagemint.v1.GenerationService"

_TRANSLATE = "/imagemint.v1.TranslationService/Translate"
# Most bytes of the prepared requests with sources; there are fewer of them then.
_POOL_BYTES = 32 * 2**20

_Request: TypeAlias = pb.GenerateRequest | pb.StreamGenerateRequest | translation.TranslateRequest
_Response: TypeAlias = (
    pb.GenerateResponse | pb.StreamGenerateResponse | translation.TranslateResponse
)


@dataclass(frozen=True, slots=True)
class ImagemintTarget:
    """An imagemint server.

    Attributes:
        targets: addresses, as `imagemint.client.channel.parse_targets` returns them.
        model: name of the model to request.
        version: its version; empty for the server's default.
        tls: encryption settings; None for plain text.
        timeout_s: seconds that a call, or the next chunk of a stream, may take.
        metadata: metadata of every call.
    """

    targets: tuple[str, ...]
    model: str
    version: str = ""
    tls: Tls | None = None
    timeout_s: float = 30.0
    metadata: tuple[tuple[str, str], ...] = ()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["ImagemintConnection"]:
        """Opens one channel over all addresses, which calls take in turn.

        Raises:
            CallFailed: a host name does not resolve.
        """
        async with open_calls(self.targets, self.tls) as calls:
            yield ImagemintConnection(self, calls)


class ImagemintConnection:
    """One connection to an imagemint server.

    Args:
        target: the server.
        calls: calls to the server.
    """

    def __init__(self, target: ImagemintTarget, calls: Calls) -> None:
        self._target = target
        self._calls = calls

    def prepare_unary(self, request_kind: RequestKind, seed: int) -> Unary:
        """Prepares calls of Generate or Translate."""
        requests = self._serialise(request_kind, seed)
        kind: type[_Response] = pb.GenerateResponse
        path = f"{_SERVICE}/Generate"
        if request_kind.translate:
            kind, path = translation.TranslateResponse, _TRANSLATE
        call = self._calls.prepare_unary(
            path, metadata=self._target.metadata, timeout_s=self._target.timeout_s
        )

        async def send(turn: int) -> Reply:
            return _parse_reply(
                kind, await call(requests[turn % len(requests)]), request_kind.count
            )

        return send

    def prepare_streaming(self, request_kind: RequestKind, seed: int) -> Streaming:
        """Prepares calls of StreamGenerate."""
        requests = self._serialise(request_kind, seed)
        call = self._calls.prepare_streaming(
            f"{_SERVICE}/StreamGenerate",
            metadata=self._target.metadata,
            timeout_s=self._target.timeout_s,
        )

        async def stream_chunks(turn: int) -> AsyncGenerator[Reply, None]:
            missing = request_kind.count
            async with aclosing(call(requests[turn % POOL])) as messages:
                async for message in messages:
                    reply = _parse_reply(pb.StreamGenerateResponse, message, None)
                    missing -= reply.images
                    yield reply
                    if missing <= 0:
                        return
            raise CallFailed("SHORT_ANSWER", f"{missing} of {request_kind.count} images missing")

        return stream_chunks

    def compute_fingerprint(self, content: object) -> bytes:
        """Returns the SHA-256 of the pictures and the serials."""
        digest = hashlib.sha256()
        if isinstance(content, translation.TranslateResponse):
            for translated in content.batch.translations:
                digest.update(translated.picture)
                digest.update(translated.image.serial.encode())
            return digest.digest()
        if not isinstance(content, pb.GenerateResponse | pb.StreamGenerateResponse):
            raise TypeError(f"{type(content).__name__} is not an answer of imagemint")
        for picture, image in zip(content.batch.pictures, content.batch.images, strict=True):
            digest.update(picture)
            digest.update(image.serial.encode())
        return digest.digest()

    def _serialise(self, request_kind: RequestKind, seed: int) -> list[bytes]:
        pool = POOL
        if request_kind.source is not None:
            call_bytes = request_kind.count * request_kind.source.stat().st_size
            pool = max(1, min(POOL, _POOL_BYTES // max(call_bytes, 1)))
        return [
            self._make_request(request_kind, seed, turn).SerializeToString(deterministic=True)
            for turn in range(pool)
        ]

    def _make_request(self, request_kind: RequestKind, seed: int, turn: int) -> _Request:
        images = make_image_spec(
            self._target.model,
            request_kind.count,
            seed=seed,
            first_index=turn * request_kind.count,
            condition=_make_condition(request_kind),
            truncation=request_kind.truncation,
            version=self._target.version,
        )
        output = image_pb2.OutputSpec(format=image_pb2.IMAGE_FORMAT_RAW)
        if request_kind.format != "raw":
            output = make_output_spec(request_kind.format, request_kind.quality)
        priority = parse_priority(request_kind.priority)
        if request_kind.source is not None:
            source = make_source_message(request_kind.source, "source")
            return translation.TranslateRequest(
                images=images,
                sources=[source] * request_kind.count,
                fit=parse_fit(request_kind.fit),
                output=output,
                priority=priority,
            )
        if not request_kind.stream:
            return pb.GenerateRequest(images=images, output=output, priority=priority)
        return pb.StreamGenerateRequest(
            images=images, output=output, priority=priority, chunk_size=request_kind.chunk
        )


def _parse_reply(kind: type[_Response], message: bytes, expected: int | None) -> Reply:
    """Returns the reply with the number of images that have both pixels and metadata."""
    try:
        response = kind.FromString(message)
    except DecodeError as error:
        raise CallFailed("INTERNAL", f"malformed answer: {error}") from None
    if isinstance(response, translation.TranslateResponse):
        images = pictures = len(response.batch.translations)
    else:
        images, pictures = len(response.batch.images), len(response.batch.pictures)
    if pictures != images or images == 0 or (expected is not None and images != expected):
        raise CallFailed("SHORT_ANSWER", f"{pictures} pictures of {images} images")
    return Reply(images, response)


def _make_condition(request_kind: RequestKind) -> Condition:
    if request_kind.caption is not None:
        return Caption(request_kind.caption)
    text = request_kind.class_
    if text == "balanced":
        return Cycle()
    if text is not None and text.isascii() and text.isdigit():
        return int(text)
    return text
