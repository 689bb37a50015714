"""One call of gRPC on a stream of HTTP/2: what arrives becomes messages and a status.

The mapping is that of gRPC over HTTP/2
(https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). `connection` moves the frames and
calls the methods `on_...`; the two kinds of exchange differ in who waits, and for what.
"""

import asyncio
import struct
from collections import deque
from typing import TYPE_CHECKING

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire.deadlines import Deadlines
from imagemint.client.bench.wire.frames import ErrorCode, name_of
from imagemint.client.bench.wire.headers import AnswerBlocks, Head
from imagemint.client.channel import MAX_RECEIVE_BYTES

if TYPE_CHECKING:
    from imagemint.client.bench.wire.connection import Connection

_PREFIX = struct.Struct(">BI")  # whether compressed, and the length
_PREFIX_BYTES = 5
_TEXT_BYTES = 200
_RESETS: dict[int, str] = {
    ErrorCode.CANCEL: "CANCELLED",
    ErrorCode.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
    ErrorCode.INADEQUATE_SECURITY: "PERMISSION_DENIED",
}


class Exchange:
    """A call and what came back of it.

    Args:
        head: header fields of the request.
        request: its message, serialised.
        deadlines: how long the call, or each message of a stream, may take.
    """

    # How each begins; set on the class, since most calls never change most of it.
    connection: "Connection | None" = None  # once it is sent
    stream = 0
    owed = 0  # bytes that came and that the peer's window was not yet given back
    done = False
    _opened = False
    _fault = ""
    _text = b""  # of an answer that is not gRPC's
    _held: list[bytes] | None = None  # of a message that is not whole
    _held_bytes = 0
    _needed = _PREFIX_BYTES

    def __init__(self, head: Head, request: bytes, deadlines: Deadlines) -> None:
        self.head = head
        self.request = request
        self._deadlines = deadlines

    @property
    def hungry(self) -> bool:
        """Whether somebody waits for more to come."""
        return True

    def finish(self, failure: CallFailed | None) -> None:
        """The call is over, well or not. Does nothing the second time."""
        if not self.done:
            self.done = True
            self._deadlines.end(self)
            self._conclude(failure)

    def give_up(self, failure: CallFailed) -> None:
        """The call ends here, and the server is told."""
        if self.connection is not None:
            self.connection.reset(self, ErrorCode.CANCEL)
        self.finish(failure)

    def expire(self) -> None:
        """The time is over."""
        text = f"nothing came within {self._deadlines.timeout_s:g} s"
        self.give_up(CallFailed("DEADLINE_EXCEEDED", text))

    def on_headers(self, block: bytes, answers: AnswerBlocks, *, ended: bool) -> None:
        """A block of header fields came."""
        if not self._opened:
            if ended:
                self.finish(answers.only_failure(block))
                return
            opening = answers.opening(block)
            self._opened = not opening.informational
            self._fault = opening.fault
        elif not ended:
            self._break("header fields in the middle of the answer")
        elif self._fault:
            self.on_end()
        elif (failure := answers.failure(block)) is None and self._held:
            self.finish(CallFailed("INTERNAL", "the answer ends within a message"))
        else:
            self.finish(failure)

    def on_data(self, payload: bytes) -> None:
        """A piece of the answer came: part of a message, or several."""
        if self._fault or not self._opened:
            self._text = (self._text + payload)[:_TEXT_BYTES]
            return
        if not self._held and len(payload) >= _PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(payload)
            if not compressed and length == len(payload) - _PREFIX_BYTES:  # by far the most
                self._message(payload[_PREFIX_BYTES:])
                return
        if payload:
            if self._held is None:
                self._held = []
            self._held.append(payload)
            self._held_bytes += len(payload)
        if self._held_bytes >= self._needed:
            self._cut()

    def on_end(self) -> None:
        """The answer ended without trailers."""
        fault = self._fault or ("no grpc-status" if self._opened else "no header fields")
        text = self._text.decode("utf-8", "replace")
        self.finish(CallFailed("UNKNOWN", f"{fault}: {text}" if text else fault))

    def on_reset(self, code: int) -> None:
        """The server ended the stream."""
        if code == ErrorCode.CANCEL and self._deadlines.overdue(self):
            self.expire()
            return
        name = _RESETS.get(code, "INTERNAL")
        text = f"the server reset the stream: {name_of(code)}"
        self.finish(CallFailed(name, text, shed=name == "RESOURCE_EXHAUSTED"))

    def _cut(self) -> None:
        """Takes the messages out of what is held."""
        data, at = b"".join(self._held or ()), 0
        self._needed = _PREFIX_BYTES
        while len(data) - at >= _PREFIX_BYTES and not self.done:
            compressed, length = _PREFIX.unpack_from(data, at)
            if compressed:
                self._break("a compressed message, which nobody asked for")
            elif length > MAX_RECEIVE_BYTES:
                text = f"a message of {length} bytes; {MAX_RECEIVE_BYTES} are taken"
                self.give_up(CallFailed("RESOURCE_EXHAUSTED", text))
            elif len(data) - at < _PREFIX_BYTES + length:
                self._needed = _PREFIX_BYTES + length
                break
            else:
                self._message(data[at + _PREFIX_BYTES : at + _PREFIX_BYTES + length])
                at += _PREFIX_BYTES + length
        rest = data[at:]
        self._held, self._held_bytes = [rest] if rest else [], len(rest)

    def _break(self, text: str) -> None:
        self.give_up(CallFailed("INTERNAL", text))

    def _message(self, message: bytes) -> None:
        """One whole message came."""
        raise NotImplementedError

    def _conclude(self, failure: CallFailed | None) -> None:
        """The call is over; happens once."""
        raise NotImplementedError


class UnaryExchange(Exchange):
    """A call with one answer, which `future` brings."""

    _answer: bytes | None = None

    def __init__(
        self, head: Head, request: bytes, deadlines: Deadlines, future: asyncio.Future[bytes]
    ) -> None:
        super().__init__(head, request, deadlines)
        self.future = future
        deadlines.begin(self)

    def _message(self, message: bytes) -> None:
        if self._answer is not None:
            self._break("more than one message")
        self._answer = message

    def _conclude(self, failure: CallFailed | None) -> None:
        if self.future.done():  # its caller was cancelled
            return
        if failure is None and self._answer is None:
            failure = CallFailed("INTERNAL", "success without a message")
        if failure is not None:
            self.future.set_exception(failure)
        elif self._answer is not None:
            self.future.set_result(self._answer)


class StreamExchange(Exchange):
    """A call with many answers, which `next_message` brings."""

    def __init__(self, head: Head, request: bytes, deadlines: Deadlines) -> None:
        super().__init__(head, request, deadlines)
        self._loop = asyncio.get_running_loop()
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: CallFailed | None = None

    @property
    def hungry(self) -> bool:
        """Whether somebody waits for more to come: nothing lies here unread."""
        return not self._messages

    async def next_message(self) -> bytes | None:
        """The next message; None after the last.

        Raises:
            CallFailed: there is none, and the stream did not end well.
        """
        if not self._messages and not self.done:
            self._waiter = self._loop.create_future()
            self._deadlines.begin(self)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._deadlines.end(self)
        if self._messages:
            message = self._messages.popleft()
            if not self._messages and self.connection is not None and not self.done:
                self.connection.replenish(self)
            return message
        if self._failure is not None:
            raise self._failure
        return None

    def _message(self, message: bytes) -> None:
        self._messages.append(message)
        self._wake()

    def _conclude(self, failure: CallFailed | None) -> None:
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
