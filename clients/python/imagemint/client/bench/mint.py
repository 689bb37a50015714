"""imagemint's own service as a target: bare stubs, requests serialised beforehand.

Client and server often share the cores in a comparison, so a call costs as little Python as gRPC
allows: no retries (they would hide refusals), no arrays, no decoding of pictures.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from grpc import aio

from imagemint.client.bench.mix import Ask
from imagemint.client.bench.target import CallFailed, Reply, Streaming, Unary
from imagemint.client.channel import Tls, open_channel
from imagemint.client.requests import (
    Condition,
    Cycle,
    image_spec,
    output_spec,
    priority_value,
)
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2

# Different requests of one kind, taken in turn: too many pixels for a cache to flatter the server,
# few enough to be prepared in a moment.
POOL = 512

_SERVICE = "/imagemint.v1.GenerationService"

_Request: TypeAlias = pb.GenerateRequest | pb.StreamGenerateRequest


@dataclass(frozen=True, slots=True)
class Mint:
    """An imagemint server.

    Attributes:
        targets: addresses, as `imagemint.client.channel.targets_of` gives them.
        model: the model asked for.
        version: its version; empty for the server's default.
        tls: how to encrypt; None for plain text.
        timeout_s: seconds that a call, or the next chunk of a stream, may take.
        metadata: goes with every call.
    """

    targets: tuple[str, ...]
    model: str
    version: str = ""
    tls: Tls | None = None
    timeout_s: float = 30.0
    metadata: tuple[tuple[str, str], ...] = ()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["MintConnection"]:
        """Opens one connection."""
        async with await open_channel(self.targets, self.tls, retries=False) as channel:
            yield MintConnection(self, channel)


class MintConnection:
    """One connection to an imagemint server.

    Args:
        target: the server.
        channel: to it.
    """

    def __init__(self, target: Mint, channel: aio.Channel) -> None:
        self._target = target
        self._channel = channel

    def unary(self, ask: Ask, reel: int) -> Unary:
        """Prepares calls of Generate."""
        requests = self._serialised(ask, reel)
        # No serialiser: gRPC sends the bytes as they are.
        call: aio.UnaryUnaryMultiCallable[bytes, pb.GenerateResponse] = self._channel.unary_unary(
            f"{_SERVICE}/Generate", None, pb.GenerateResponse.FromString
        )
        timeout_s, metadata = self._target.timeout_s, self._target.metadata or None

        async def send(turn: int) -> Reply:
            try:
                answer = await call(requests[turn % POOL], timeout=timeout_s, metadata=metadata)
            except aio.AioRpcError as error:
                raise _failure(error) from None
            return _reply(answer, ask.count)

        return send

    def streaming(self, ask: Ask, reel: int) -> Streaming:
        """Prepares calls of StreamGenerate."""
        requests = self._serialised(ask, reel)
        call: aio.UnaryStreamMultiCallable[bytes, pb.StreamGenerateResponse] = (
            self._channel.unary_stream(
                f"{_SERVICE}/StreamGenerate", None, pb.StreamGenerateResponse.FromString
            )
        )
        timeout_s, metadata = self._target.timeout_s, self._target.metadata or None

        async def chunks(turn: int) -> AsyncGenerator[Reply, None]:
            stream = call(requests[turn % POOL], metadata=metadata)
            missing = ask.count
            try:
                while missing > 0:
                    async with asyncio.timeout(timeout_s):
                        chunk = await stream.read()
                    if not isinstance(chunk, pb.StreamGenerateResponse):  # the end
                        raise CallFailed("SHORT_ANSWER", f"{missing} of {ask.count} images missing")
                    reply = _reply(chunk, None)
                    missing -= reply.images
                    yield reply
            except aio.AioRpcError as error:
                raise _failure(error) from None
            except TimeoutError:
                raise CallFailed("DEADLINE_EXCEEDED", f"no chunk within {timeout_s:g} s") from None
            finally:
                stream.cancel()

        return chunks

    def fingerprint(self, content: object) -> bytes:
        """SHA-256 of the pictures and the serials."""
        if not isinstance(content, pb.GenerateResponse | pb.StreamGenerateResponse):
            raise TypeError(f"{type(content).__name__} is no answer of imagemint's")
        digest = hashlib.sha256()
        for picture, image in zip(content.batch.pictures, content.batch.images, strict=True):
            digest.update(picture)
            digest.update(image.serial.encode())
        return digest.digest()

    def _serialised(self, ask: Ask, reel: int) -> list[bytes]:
        return [
            self._request(ask, reel, turn).SerializeToString(deterministic=True)
            for turn in range(POOL)
        ]

    def _request(self, ask: Ask, reel: int, turn: int) -> _Request:
        images = image_spec(
            self._target.model,
            ask.count,
            seed=reel,
            first_index=turn * ask.count,
            condition=_condition(ask.class_),
            truncation=ask.truncation,
            version=self._target.version,
        )
        output = image_pb2.OutputSpec(format=image_pb2.IMAGE_FORMAT_RAW)
        if ask.format != "raw":
            output = output_spec(ask.format, ask.quality)
        priority = priority_value(ask.priority)
        if not ask.stream:
            return pb.GenerateRequest(images=images, output=output, priority=priority)
        return pb.StreamGenerateRequest(
            images=images, output=output, priority=priority, chunk_size=ask.chunk
        )


def _reply(answer: pb.GenerateResponse | pb.StreamGenerateResponse, wanted: int | None) -> Reply:
    """Counts what came: an image is a picture and what it is."""
    images, pictures = len(answer.batch.images), len(answer.batch.pictures)
    if pictures != images or images == 0 or (wanted is not None and images != wanted):
        raise CallFailed("SHORT_ANSWER", f"{pictures} pictures of {images} images")
    return Reply(images, answer)


def _failure(error: aio.AioRpcError) -> CallFailed:
    code = error.code()
    # What a full queue, a rate and a quota answer: the server protects itself, as it should.
    shed = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return CallFailed(code.name, error.details() or "", shed=shed)


def _condition(text: str | None) -> Condition:
    if text == "balanced":
        return Cycle()
    if text is not None and text.isascii() and text.isdigit():
        return int(text)
    return text
