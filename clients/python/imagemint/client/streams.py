"""A stream of chunks that outlives its connections: each index arrives exactly once."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeAlias

from grpc import aio

from imagemint.client.errors import (
    Cancelled,
    DeadlineExceeded,
    QueueFull,
    ServerError,
    Unavailable,
    translated,
)
from imagemint.client.requests import remaining
from imagemint.v1 import generation_service_pb2, image_pb2

Request: TypeAlias = generation_service_pb2.StreamGenerateRequest
Response: TypeAlias = generation_service_pb2.StreamGenerateResponse
Call: TypeAlias = aio.UnaryStreamCall[Request, Response]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between attempts, and how many to make without progress."""

    attempts: int = 7
    """Failures in a row, without a chunk between them, after which the error is raised."""
    initial_s: float = 0.1
    """Wait after the first failure, in seconds; it doubles with each further one."""
    longest_s: float = 5.0
    """Longest wait of our own; the server may ask for more."""

    def delay_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds to wait after this many failures in a row: never less than the server asked.

        The jitter of a quarter keeps many clients of one server from returning all at once.
        """
        own_s = min(self.initial_s * 2.0 ** (failures - 1), self.longest_s)
        jitter_s = own_s * random.uniform(0, 0.25)  # noqa: S311 - spreads load, guards nothing
        return max(own_s, asked_s or 0.0) + jitter_s


BACKOFF = Backoff()


async def resuming(
    open_call: Callable[[Request], Call],
    request: Request,
    *,
    timeout_s: float | None,
    backoff: Backoff = BACKOFF,
) -> AsyncGenerator[Response, None]:
    """The chunks of `request`, in order of index, across as many calls as it takes.

    The first chunk pins version and seed. After it, UNAVAILABLE, RESOURCE_EXHAUSTED and a server's
    CANCELLED, which is how gRPC ends calls that reach a server just as it drains, lead to a new
    call from the next index on; before it, the retries of the service config are enough. Each chunk
    is read when it is asked for, so a slow consumer slows the server through flow control.

    Args:
        open_call: starts the call for a request.
        request: what is wanted.
        timeout_s: seconds within which each chunk must arrive, None for no limit. The stream as a
            whole has no deadline: how long a million images take is for their consumer to say.
        backoff: how patiently to resume.

    Raises:
        DeadlineExceeded: a chunk did not arrive in time, or the server asked to wait longer.
        ServerError: the chunks leave a gap, or come from other bytes than those before.
        ImagemintError: the call failed for good.
    """
    wanted = request.images
    first: image_pb2.ImageBatch | None = None
    done = failures = 0
    while True:
        call = open_call(request)
        try:
            while (response := await _next(call, timeout_s)) is not None:
                _check(response.batch, wanted.first_index + done, first)
                first = first or response.batch
                done += len(response.batch.images)
                failures = 0
                yield response
            if done < wanted.count:
                raise ServerError(
                    f"the stream ended after {done} of {wanted.count} images",
                    reason="STREAM_TRUNCATED",
                )
        except (Unavailable, QueueFull, Cancelled) as error:
            if done < wanted.count:
                failures += 1
                delay_s = backoff.delay_s(failures, error.retry_delay_s)
                impatient = timeout_s is not None and (error.retry_delay_s or 0) > timeout_s
                if first is None or failures >= backoff.attempts or impatient:
                    raise
                request = _resumed(request, wanted, done, first)
                await asyncio.sleep(delay_s)
                continue
        finally:
            call.cancel()
        return


async def _next(call: Call, timeout_s: float | None) -> Response | None:
    """The next chunk; None at the end."""
    try:
        async with asyncio.timeout(timeout_s):
            chunk = await call.read()
    except aio.AioRpcError as error:
        raise translated(error) from error
    except TimeoutError:
        raise DeadlineExceeded(f"no chunk within {timeout_s:g} s", reason="CHUNK_OVERDUE") from None
    return chunk if isinstance(chunk, Response) else None


def _resumed(
    request: Request, wanted: image_pb2.ImageSpec, done: int, first: image_pb2.ImageBatch
) -> Request:
    """The request for what is still missing, pinned to what the first chunk came from."""
    rest = Request()
    rest.CopyFrom(request)
    rest.images.CopyFrom(remaining(wanted, done))
    rest.images.version = first.version
    if first.HasField("seed"):
        rest.images.seed = first.seed
    return rest


def _check(
    batch: image_pb2.ImageBatch, next_index: int, first: image_pb2.ImageBatch | None
) -> None:
    """Raises unless `batch` continues the stream: the next indices, from the same bytes."""
    if not batch.images or batch.images[0].index != next_index:
        got = batch.images[0].index if batch.images else "none"
        raise ServerError(f"expected index {next_index}, got {got}", reason="STREAM_GAP")
    if first and batch.bundle_sha256 != first.bundle_sha256:
        raise ServerError(
            f"{batch.model}@{batch.version} changed under the stream: bundle "
            f"{first.bundle_sha256[:12]} became {batch.bundle_sha256[:12]}",
            reason="BUNDLE_CHANGED",
        )
    # A server of before variants tells none.
    if first and batch.variant and first.variant and batch.variant != first.variant:
        raise ServerError(
            f"{batch.model}@{batch.version} changed under the stream: variant {first.variant} "
            f"became {batch.variant}, whose pixels are others",
            reason="VARIANT_CHANGED",
        )
