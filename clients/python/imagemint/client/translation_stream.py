"""A stream of translations that resumes after failures: each source is answered exactly once."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias

from grpc import StatusCode, aio

from imagemint.client.duplex import DuplexCall
from imagemint.client.errors import InvalidRequest, ServerError, Violation
from imagemint.client.lifetime import Lifetime
from imagemint.client.resuming import BACKOFF, Backoff, Call, ResumedStream, check_origin
from imagemint.v1 import translation_service_pb2 as messages

# Messages that are sent and not yet answered. A few of them fill the batches of the server, and
# with about a megabyte each they stay below what the server reads ahead.
_AHEAD = 4

Request: TypeAlias = messages.StreamTranslateRequest
Response: TypeAlias = messages.StreamTranslateResponse
Group: TypeAlias = Sequence[messages.Source]


class TranslationStream(ResumedStream[Response]):
    """Sources that are translated by as many calls of StreamTranslate as necessary.

    Sources are sent in the background, a few messages ahead of their answers, so a slow consumer
    stops the sending. A new call sends the unanswered sources again, with the version of the first
    answer.

    Args:
        open_call: starts a call, to which nothing is sent yet.
        options: the first message; its seed is set.
        groups: the sources of each further message; read when they are needed. Its error is raised
            after the answers to the groups before.
        lifetime: lifetime of the client.
        timeout_s: longest time for one answer in seconds; None for no limit.
        backoff: delays between calls.
    """

    def __init__(
        self,
        open_call: Callable[[], Awaitable[DuplexCall]],
        options: Request,
        groups: Iterator[Group] | AsyncIterator[Group],
        *,
        lifetime: Lifetime,
        timeout_s: float | None,
        backoff: Backoff = BACKOFF,
    ) -> None:
        super().__init__(lifetime, timeout_s, backoff)
        self._open = open_call
        self._options = options
        self._groups = groups
        self._reading: asyncio.Future[Group | None] | None = None
        self._unanswered: deque[Group] = deque()
        self._exhausted = False
        self._error: BaseException | None = None
        self._answered = 0  # groups
        self._done = 0  # sources
        self._room = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._first: messages.TranslationBatch | None = None

    def has_begun(self) -> bool:
        """Returns whether an answer has arrived."""
        return self._first is not None

    def is_complete(self) -> bool:
        """Returns whether every source is answered."""
        return self._exhausted and not self._unanswered and self._error is None

    async def open_call(self) -> Call:
        """Starts a call, and sends in the background what is not answered."""
        call = await self._open()
        self._writer = asyncio.ensure_future(self._send(call))
        return call

    def cancel(self) -> None:
        """Cancels the active call, and stops the sending."""
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        super().cancel()

    async def read(self) -> Response | None:
        """Returns the next answer; errors name sources by their number in the whole stream."""
        try:
            return await super().read()
        except InvalidRequest as error:
            if error is self._error:  # of the sources, not of the server
                raise
            if error.code is StatusCode.RESOURCE_EXHAUSTED:  # a message is too large for the server
                raise self._name_largest(error) from error
            raise _renumber(error, self._done) from error

    def _name_largest(self, error: InvalidRequest) -> InvalidRequest:
        """Returns an error about the size of a message with the number of its source.

        gRPC does not tell which message it was. A source that is too large has one of its own.
        """
        sizes = [sum(each.ByteSize() for each in group) for group in self._unanswered]
        if not sizes:
            return error
        at = sizes.index(max(sizes))
        number = self._done + sum(len(group) for group in list(self._unanswered)[:at])
        violation = Violation(f"sources[{number}]", error.message)
        return InvalidRequest(
            f"{violation.field}: {error.message}", code=error.code, violations=[violation]
        )

    def accept(self, message: object) -> Response | None:
        """Returns the answer to the oldest group; None at the end of all."""
        if not isinstance(message, Response):
            if self._error is not None:
                raise self._error
            if not self.is_complete():
                raise ServerError(
                    f"the stream ended after {self._done} sources", reason="STREAM_TRUNCATED"
                )
            return None
        batch, expected = message.batch, len(self._unanswered[0]) if self._unanswered else 0
        if len(batch.translations) != expected:
            raise ServerError(
                f"expected {expected} translations, got {len(batch.translations)}",
                reason="STREAM_GAP",
            )
        self._first = self._first or batch
        check_origin(batch, self._first)
        self._unanswered.popleft()
        self._answered += 1
        self._done += expected
        self._room.set()
        return message

    async def _send(self, call: DuplexCall) -> None:
        # If the call has ended, the reader gets its status.
        with contextlib.suppress(aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError):
            await call.write(self._begin())
            number = self._answered
            while (group := await self._find_group(number)) is not None:
                await call.write(Request(sources=group))
                number += 1
            await call.done_writing()

    def _begin(self) -> Request:
        """Returns the first message of a call."""
        if self._first is None:
            return self._options
        options = Request()
        options.CopyFrom(self._options)
        options.images.version = self._first.version
        options.images.first_index += self._done
        return options

    async def _find_group(self, number: int) -> Group | None:
        """Returns a group once it may be sent; None after the last."""
        while number - self._answered >= _AHEAD:
            self._room.clear()
            await self._room.wait()
        if number - self._answered == len(self._unanswered) and not self._exhausted:
            await self._take()
        ahead = number - self._answered
        return self._unanswered[ahead] if ahead < len(self._unanswered) else None

    async def _take(self) -> None:
        try:
            group = await self._read_group()
        except Exception as error:  # noqa: BLE001 - the reader raises it
            self._error, group = error, None
        if group is None:
            self._exhausted = True
        else:
            self._unanswered.append(group)

    async def _read_group(self) -> Group | None:
        """Returns the next group; None after the last.

        If a call ends while it waits for an asynchronous source, the next call waits on.
        """
        if isinstance(self._groups, Iterator):
            return next(self._groups, None)
        if self._reading is None:
            self._reading = asyncio.ensure_future(_read_next(self._groups))
        await asyncio.wait([self._reading])
        reading, self._reading = self._reading, None
        if reading.cancelled():  # by the source, as nothing else cancels a read during a call
            self._error = asyncio.CancelledError("a source was cancelled")
            return None
        return reading.result()

    def stop_reading(self) -> None:
        """Cancels the read of a source that is not there yet."""
        if self._reading is not None:
            self._reading.cancel()


async def _read_next(groups: AsyncIterator[Group]) -> Group | None:
    return await anext(groups, None)


def _renumber(error: InvalidRequest, done: int) -> InvalidRequest:
    """Returns an error about the sources of a message with their numbers in the stream."""
    violations = [
        Violation(_move(violation.field, done), violation.description)
        for violation in error.violations
    ]
    message = error.message
    for old, new in zip(error.violations, violations, strict=True):
        message = message.replace(old.field, new.field)
    return InvalidRequest(
        message,
        reason=error.reason,
        metadata=error.metadata,
        code=error.code,
        violations=violations,
        request_id=error.request_id,
    )


def _move(field: str, done: int) -> str:
    name, bracket, rest = field.partition("[")
    number, _, path = rest.partition("]")
    if name != "sources" or not bracket or not number.isdigit():
        return field
    return f"sources[{int(number) + done}]{path}"
