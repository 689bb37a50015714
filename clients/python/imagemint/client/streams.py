"""A stream of chunks that resumes after failures: each index arrives exactly once."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from imagemint.client.errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    ImagemintError,
    QueueFull,
    ServerError,
    Unavailable,
)
from imagemint.client.lifetime import Lifetime
from imagemint.client.requests import remaining
from imagemint.v1 import generation_service_pb2, image_pb2

Request: TypeAlias = generation_service_pb2.StreamGenerateRequest
Response: TypeAlias = generation_service_pb2.StreamGenerateResponse


class Call(Protocol):
    """One call of StreamGenerate, through grpc.aio or the relay."""

    async def read(self) -> object:
        """Returns the next Response, or any other object at the end."""

    def cancel(self) -> bool:
        """Cancels the call."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between attempts."""

    initial_s: float = 0.1
    """Delay after the first failure, in seconds. It doubles with each further failure."""
    longest_s: float = 2.0
    """Longest delay in seconds, unless the server asks for more."""

    def delay_s(self, failures: int, asked_s: float | None) -> float:
        """Returns the delay after this many failures in a row: at least what the server asked for.

        A jitter of up to a quarter prevents many clients from retrying at the same moment.
        """
        own_s = min(self.initial_s * 2.0 ** min(failures - 1, 32), self.longest_s)
        jitter_s = own_s * random.uniform(0, 0.25)  # noqa: S311 - spreads load, guards nothing
        return max(own_s, asked_s or 0.0) + jitter_s


BACKOFF = Backoff()


async def resume_stream(
    open_call: Callable[[Request], Call],
    request: Request,
    *,
    lifetime: Lifetime,
    timeout_s: float | None,
    backoff: Backoff = BACKOFF,
) -> AsyncGenerator[Response, None]:
    """Yields the chunks of `request` in order of index, with as many calls as necessary.

    The first chunk fixes version and seed. After it, UNAVAILABLE, RESOURCE_EXHAUSTED or a server's
    CANCELLED (which ends calls that reach a draining server) lead to new calls from the next index
    on, until a chunk arrives or `timeout_s` has passed. Before the first chunk, only the service
    config retries, so that a wrong address fails at once. Each chunk is read when the consumer
    requests it, so a slow consumer slows the server down through flow control.

    Args:
        open_call: starts the call for a request.
        request: the request.
        lifetime: lifetime of the client.
        timeout_s: longest time for one chunk in seconds, with all new calls and delays; None for no
            limit. The time that the consumer spends between chunks does not count. The stream as a
            whole has no deadline.
        backoff: delays between calls.

    Raises:
        DeadlineExceeded: a chunk did not arrive in time.
        Unavailable, QueueFull: the server did not recover in time, or asked for a longer delay.
        ServerError: an index is missing, or the bundle changed during the stream.
        ImagemintError: the call failed, and a retry cannot help.
    """
    stream = _Stream(open_call, request, lifetime, timeout_s, backoff)
    try:
        while (response := await stream.next_chunk()) is not None:
            yield response
    finally:
        stream.cancel()


class _Stream:
    """State of one stream: the active call, and what has arrived."""

    def __init__(
        self,
        open_call: Callable[[Request], Call],
        request: Request,
        lifetime: Lifetime,
        timeout_s: float | None,
        backoff: Backoff,
    ) -> None:
        self._open_call = open_call
        self._request = request
        self._wanted = request.images
        self._lifetime = lifetime
        self._timeout_s = timeout_s
        self._backoff = backoff
        self._call: Call | None = None
        self._first: image_pb2.ImageBatch | None = None
        self._done = 0

    def cancel(self) -> None:
        """Cancels the active call, unless it belongs to the parent process."""
        if self._call is not None and not self._lifetime.forked:
            self._call.cancel()
        self._call = None

    async def next_chunk(self) -> Response | None:
        """Returns the next chunk, with as many calls as the deadline allows; None at the end."""
        loop = asyncio.get_running_loop()
        deadline = None if self._timeout_s is None else loop.time() + self._timeout_s
        failures = 0
        failure: ImagemintError | None = None
        while True:
            try:
                return await self._read(deadline, failure)
            except ClientClosed:
                raise
            except (Unavailable, QueueFull, Cancelled) as error:
                if self._done >= self._wanted.count:
                    return None  # everything has arrived, so the error does not matter
                self.cancel()
                failure = error
                failures += 1
            wait_s = self._backoff.delay_s(failures, failure.retry_delay_s)
            if deadline is not None:
                left_s = deadline - loop.time()
                if left_s <= 0 or (failure.retry_delay_s or 0) > left_s:
                    raise failure
                wait_s = min(wait_s, left_s)
            if self._first is None:
                raise failure
            await asyncio.sleep(wait_s)

    async def _read(
        self, deadline: float | None, failure: ImagemintError | None
    ) -> Response | None:
        """Returns the next chunk of the active call or of a new one; None at the end."""
        with self._lifetime.translate(self._timeout_s):
            if self._call is None:
                self._call = self._open_call(self._pending())
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await self._call.read()
            except TimeoutError:
                if failure is not None:
                    raise failure from None
                raise DeadlineExceeded(
                    f"no chunk from {self._lifetime.server} within {self._timeout_s:g} s",
                    reason="CHUNK_OVERDUE",
                ) from None
        if not isinstance(chunk, Response):
            self._check_end()
            return None
        self._check(chunk.batch)
        self._first = self._first or chunk.batch
        self._done += len(chunk.batch.images)
        return chunk

    def _pending(self) -> Request:
        """Returns the request for the missing images, with version and seed of the first chunk."""
        if self._first is None:
            return self._request
        rest = Request()
        rest.CopyFrom(self._request)
        rest.images.CopyFrom(remaining(self._wanted, self._done))
        rest.images.version = self._first.version
        if self._first.HasField("seed"):
            rest.images.seed = self._first.seed
        return rest

    def _check_end(self) -> None:
        """Raises ServerError if the stream ended too early."""
        if self._done < self._wanted.count:
            raise ServerError(
                f"the stream ended after {self._done} of {self._wanted.count} images",
                reason="STREAM_TRUNCATED",
            )

    def _check(self, batch: image_pb2.ImageBatch) -> None:
        """Raises ServerError unless `batch` has the next indices, from the same bundle."""
        first, next_index = self._first, self._wanted.first_index + self._done
        if not batch.images or batch.images[0].index != next_index:
            got = batch.images[0].index if batch.images else "none"
            raise ServerError(f"expected index {next_index}, got {got}", reason="STREAM_GAP")
        if first and batch.bundle_sha256 != first.bundle_sha256:
            raise ServerError(
                f"{batch.model}@{batch.version} changed under the stream: bundle "
                f"{first.bundle_sha256[:12]} became {batch.bundle_sha256[:12]}",
                reason="BUNDLE_CHANGED",
            )
        # Servers without variants do not send one.
        if first and batch.variant and first.variant and batch.variant != first.variant:
            raise ServerError(
                f"{batch.model}@{batch.version} changed under the stream: variant "
                f"{first.variant} became {batch.variant}, whose pixels are different",
                reason="VARIANT_CHANGED",
            )
