"""A stream of generated images that resumes after failures: each index arrives exactly once."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

from imagemint.client.errors import ServerError
from imagemint.client.lifetime import Lifetime
from imagemint.client.requests import make_remaining
from imagemint.client.resuming import BACKOFF, Backoff, Call, ResumedStream, check_origin
from imagemint.v1 import generation_service_pb2, image_pb2

Request: TypeAlias = generation_service_pb2.StreamGenerateRequest
Response: TypeAlias = generation_service_pb2.StreamGenerateResponse


async def resume_stream(
    open_call: Callable[[Request], Awaitable[Call]],
    request: Request,
    *,
    lifetime: Lifetime,
    timeout_s: float | None,
    backoff: Backoff = BACKOFF,
) -> AsyncGenerator[Response, None]:
    """Yields the chunks of `request` in order of index, with as many calls as necessary.

    The first chunk fixes version and seed; see `ResumedStream`.

    Args:
        open_call: starts the call for a request.
        request: the request.
        lifetime: lifetime of the client.
        timeout_s: longest time for one chunk in seconds; None for no limit.
        backoff: delays between calls.

    Raises:
        ImagemintError: as `ResumedStream.read_responses`.
    """
    stream = _Stream(open_call, request, lifetime, timeout_s, backoff)
    async with aclosing(stream.read_responses()) as chunks:
        async for chunk in chunks:
            yield chunk


class _Stream(ResumedStream[Response]):
    """State of one stream: the active call, and what has arrived."""

    def __init__(
        self,
        open_call: Callable[[Request], Awaitable[Call]],
        request: Request,
        lifetime: Lifetime,
        timeout_s: float | None,
        backoff: Backoff,
    ) -> None:
        super().__init__(lifetime, timeout_s, backoff)
        self._open = open_call
        self._request = request
        self._images = request.images
        self._first: image_pb2.ImageBatch | None = None
        self._done = 0

    def has_begun(self) -> bool:
        """Returns whether a chunk has arrived."""
        return self._first is not None

    def is_complete(self) -> bool:
        """Returns whether every image has arrived."""
        return self._done >= self._images.count

    async def open_call(self) -> Call:
        """Starts a call for the missing images, with version and seed of the first chunk."""
        if self._first is None:
            return await self._open(self._request)
        rest = Request()
        rest.CopyFrom(self._request)
        rest.images.CopyFrom(make_remaining(self._images, self._done))
        rest.images.version = self._first.version
        if self._first.HasField("seed"):
            rest.images.seed = self._first.seed
        return await self._open(rest)

    def accept(self, message: object) -> Response | None:
        """Returns a chunk that has the next indices; None at the end of all."""
        if not isinstance(message, Response):
            if not self.is_complete():
                raise ServerError(
                    f"the stream ended after {self._done} of {self._images.count} images",
                    reason="STREAM_TRUNCATED",
                )
            return None
        batch, next_index = message.batch, self._images.first_index + self._done
        if not batch.images or batch.images[0].index != next_index:
            received = batch.images[0].index if batch.images else "none"
            raise ServerError(f"expected index {next_index}, got {received}", reason="STREAM_GAP")
        self._first = self._first or batch
        check_origin(batch, self._first)
        self._done += len(batch.images)
        return message
