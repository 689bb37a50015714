"""Streams of responses that resume after failures."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from imagemint.client.errors import (
    CONNECTION_LOST,
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    ImagemintError,
    QueueFull,
    ServerError,
    Unavailable,
)
from imagemint.client.lifetime import Lifetime


class Call(Protocol):
    """One streaming call, through grpc.aio or the relay."""

    async def read(self) -> object:
        """Returns the next response, or any object that is not a message at the end."""

    def cancel(self) -> bool:
        """Cancels the call."""


class Origin(Protocol):
    """What made the images of a response."""

    @property
    def model(self) -> str:
        """Model name."""

    @property
    def version(self) -> str:
        """Version."""

    @property
    def bundle_sha256(self) -> str:
        """Digest of the bundle."""

    @property
    def variant(self) -> str:
        """Variant; empty if the server is older than variants."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between attempts."""

    initial_s: float = 0.1
    """Delay after the first failure, in seconds. It doubles with each further failure."""
    longest_s: float = 2.0
    """Longest delay in seconds, unless the server asks for more."""

    def compute_delay_s(self, failures: int, asked_s: float | None) -> float:
        """Returns the delay after this many failures in a row: at least what the server asked for.

        A jitter of up to a quarter prevents many clients from retrying at the same moment.
        """
        own_s = min(self.initial_s * 2.0 ** min(failures - 1, 32), self.longest_s)
        jitter_s = own_s * random.uniform(0, 0.25)  # noqa: S311 - spreads load, guards nothing
        return max(own_s, asked_s or 0.0) + jitter_s


BACKOFF = Backoff()

ResponseT = TypeVar("ResponseT", bound=Message)


class ResumedStream(ABC, Generic[ResponseT]):
    """A stream of responses, with as many calls as necessary.

    After the first response, UNAVAILABLE, RESOURCE_EXHAUSTED or a server's CANCELLED (which ends
    calls that reach a draining server) lead to new calls for what is missing, until a response
    arrives or `timeout_s` has passed. Before the first response, only the service config retries,
    so that a wrong address fails at once; after a lost connection, there is one new call. Each
    response is read when the consumer requests it, so a slow consumer slows the server down through
    flow control.

    Args:
        lifetime: lifetime of the client.
        timeout_s: longest time for one response in seconds, with all new calls and delays; None for
            no limit. The time that the consumer spends between responses does not count. The stream
            as a whole has no deadline.
        backoff: delays between calls.
    """

    def __init__(self, lifetime: Lifetime, timeout_s: float | None, backoff: Backoff) -> None:
        self._lifetime = lifetime
        self._timeout_s = timeout_s
        self._backoff = backoff
        self._call: Call | None = None

    @abstractmethod
    def has_begun(self) -> bool:
        """Returns whether a response has arrived."""

    @abstractmethod
    def is_complete(self) -> bool:
        """Returns whether every response has arrived, so that a later error does not matter."""

    @abstractmethod
    async def open_call(self) -> Call:
        """Starts a call for what is missing."""

    @abstractmethod
    def accept(self, message: object) -> ResponseT | None:
        """Counts a response and returns it; at the end, checks that all have arrived.

        Raises:
            ServerError: it is not the next response, or the stream ended too early.
        """

    async def read_responses(self) -> AsyncGenerator[ResponseT, None]:
        """Yields the responses in order.

        Raises:
            DeadlineExceeded: a response did not arrive in time.
            Unavailable, QueueFull: the server did not recover in time, or asked for a longer delay.
            ServerError: a response is missing, or the bundle changed during the stream.
            ImagemintError: the call failed, and a retry cannot help.
        """
        try:
            while (response := await self.read()) is not None:
                yield response
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Cancels the active call, unless it belongs to the parent process."""
        if self._call is not None and not self._lifetime.forked:
            self._call.cancel()
        self._call = None

    async def read(self) -> ResponseT | None:
        """Returns the next response, with as many calls as the deadline allows; None at the end."""
        loop = asyncio.get_running_loop()
        deadline = None if self._timeout_s is None else loop.time() + self._timeout_s
        failures = 0
        failure: ImagemintError | None = None
        try:
            while True:
                try:
                    message = await self._try_read(deadline, failure)
                except ClientClosed:
                    raise
                except (Unavailable, QueueFull, Cancelled) as error:
                    if self.is_complete():
                        return None
                    self.cancel()
                    failure = error
                    failures += 1
                else:
                    return self.accept(message)
                wait_s = self._backoff.compute_delay_s(failures, failure.retry_delay_s)
                if deadline is not None:
                    left_s = deadline - loop.time()
                    if left_s <= 0 or (failure.retry_delay_s or 0) > left_s:
                        raise failure
                    wait_s = min(wait_s, left_s)
                if not self.has_begun() and not may_repeat(failure, failures):
                    raise failure
                await asyncio.sleep(wait_s)
        finally:
            del failure  # see Lifetime.translate

    async def _try_read(self, deadline: float | None, failure: ImagemintError | None) -> object:
        """Returns what the active call or a new one reads next."""
        with self._lifetime.translate(self._timeout_s):
            try:
                async with asyncio.timeout_at(deadline):
                    if self._call is None:
                        self._call = await self.open_call()
                    return await self._call.read()
            except TimeoutError:
                if failure is not None:
                    raise failure from None
                raise DeadlineExceeded(
                    f"no chunk from {self._lifetime.server} within {self._timeout_s:g} s",
                    reason="CHUNK_OVERDUE",
                ) from None


def may_repeat(failure: ImagemintError, failures: int = 1) -> bool:
    """Returns whether a call without a response may be made again, although gRPC does not do so.

    gRPC repeats no call whose response has begun, even if its server dies before the first message.
    One more call is enough: a request that ends its server must not end all of them.

    Args:
        failure: the failure of the call.
        failures: how often the call has failed in a row.
    """
    return failures == 1 and failure.reason == CONNECTION_LOST


def check_origin(batch: Origin, first: Origin) -> None:
    """Checks that a batch of a stream has the bundle and variant of the first one.

    Raises:
        ServerError: another bundle or variant made it.
    """
    if batch.bundle_sha256 != first.bundle_sha256:
        raise ServerError(
            f"{batch.model}@{batch.version} changed under the stream: bundle "
            f"{first.bundle_sha256[:12]} became {batch.bundle_sha256[:12]}",
            reason="BUNDLE_CHANGED",
        )
    # Servers without variants do not send one.
    if batch.variant and first.variant and batch.variant != first.variant:
        raise ServerError(
            f"{batch.model}@{batch.version} changed under the stream: variant "
            f"{first.variant} became {batch.variant}, whose pixels are different",
            reason="VARIANT_CHANGED",
        )
