"""A stream of chunks that outlives its connections: each index arrives exactly once."""

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
    """One call of StreamGenerate, as grpc.aio and the relay make it."""

    async def read(self) -> object:
        """The next Response, or anything else at the end."""

    def cancel(self) -> bool:
        """Drops the call."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between attempts."""

    initial_s: float = 0.1
    """Wait after the first failure, in seconds; it doubles with each further one."""
    longest_s: float = 2.0
    """Longest wait of the client's own; the server may ask for more."""

    def delay_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds to wait after this many failures in a row: never less than the server asked.

        The jitter of a quarter keeps many clients of one server from returning all at once.
        """
        own_s = min(self.initial_s * 2.0 ** min(failures - 1, 32), self.longest_s)
        jitter_s = own_s * random.uniform(0, 0.25)  # noqa: S311 - spreads load, guards nothing
        return max(own_s, asked_s or 0.0) + jitter_s


BACKOFF = Backoff()


async def resuming(
    open_call: Callable[[Request], Call],
    request: Request,
    *,
    lifetime: Lifetime,
    timeout_s: float | None,
    backoff: Backoff = BACKOFF,
) -> AsyncGenerator[Response, None]:
    """The chunks of `request`, in order of index, across as many calls as it takes.

    The first chunk pins version and seed. After it, UNAVAILABLE, RESOURCE_EXHAUSTED and a server's
    CANCELLED, which is how gRPC ends calls that reach a server just as it drains, lead to new calls
    from the next index on, until a chunk arrives or `timeout_s` has passed. Before it, the retries
    of the service config are all, so that a wrong address fails at once. Each chunk is read when it
    is asked for, so a slow consumer slows the server through flow control.

    Args:
        open_call: starts the call for a request.
        request: what is wanted.
        lifetime: that of the client.
        timeout_s: seconds from asking for a chunk until it arrives, all new calls and waits
            included; None for no limit. The time that the consumer spends between chunks does not
            count, and the stream as a whole has no deadline.
        backoff: how long to wait between calls.

    Raises:
        DeadlineExceeded: a chunk did not arrive in time.
        Unavailable, QueueFull: the server did not come back in time, or asked to wait longer.
        ServerError: the chunks leave a gap, or come from other bytes than those before.
        ImagemintError: the call failed for good.
    """
    stream = _Stream(open_call, request, lifetime, timeout_s, backoff)
    try:
        while (response := await stream.next_chunk()) is not None:
            yield response
    finally:
        stream.cancel()


class _Stream:
    """The state of one stream: the call under way, and what has arrived."""

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
        """Drops the call under way, if there is one and this process may touch it."""
        if self._call is not None and not self._lifetime.forked:
            self._call.cancel()
        self._call = None

    async def next_chunk(self) -> Response | None:
        """The next chunk, over as many calls as the deadline allows; None at the end."""
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
                    return None  # all is there; how the call ended does not matter
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
        """The next chunk of the call under way, or of a new one; None at the end."""
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
        """The request for what is still missing, pinned to what the first chunk came from."""
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
        """Raises if the stream has ended too early."""
        if self._done < self._wanted.count:
            raise ServerError(
                f"the stream ended after {self._done} of {self._wanted.count} images",
                reason="STREAM_TRUNCATED",
            )

    def _check(self, batch: image_pb2.ImageBatch) -> None:
        """Raises unless `batch` continues the stream: the next indices, from the same bytes."""
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
        # A server that is older than variants names none.
        if first and batch.variant and first.variant and batch.variant != first.variant:
            raise ServerError(
                f"{batch.model}@{batch.version} changed under the stream: variant "
                f"{first.variant} became {batch.variant}, whose pixels are different",
                reason="VARIANT_CHANGED",
            )
