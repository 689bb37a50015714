"""One HTTP/2 connection of a client (RFC 9113), as thin as its rules allow."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire import frames
from imagemint.client.bench.wire.exchange import Exchange
from imagemint.client.bench.wire.frames import ErrorCode, ProtocolError, Setting
from imagemint.client.bench.wire.headers import AnswerBlocks, RequestBlocks

# What the server may send ahead of who reads: given back when half of it is used up, so that small
# answers never need a frame for it. That of the connection is as good as none.
STREAM_WINDOW = 2**24
_CONNECTION_DEBT = 2**30
_LAST_STREAM = 2**31 - 1

# Head of DATA, and the prefix of a message that is not compressed.
_DATA_HEAD = struct.Struct(">HBBBIBI")
_PREFIX_BYTES = 5


class Owner(Protocol):
    """Who opened the connection."""

    def on_room(self) -> None:
        """There may be room for another stream."""
        ...

    def on_refused(self, exchange: Exchange) -> None:
        """The server has not looked at the request of an exchange, and does not want it now."""
        ...

    def on_leaving(self, connection: "Connection") -> None:
        """The connection takes no more streams."""
        ...

    def on_lost(self, connection: "Connection") -> None:
        """The connection is gone; its exchanges know."""
        ...


@dataclass(slots=True)
class _Upload:
    """A request that waits for the server's windows."""

    left: memoryview
    window: int


class Connection(asyncio.Protocol):
    """Sends requests and gives what comes to their exchanges.

    What is written in one turn of the event loop goes out in one piece.

    Args:
        owner: is told what becomes of the connection.
    """

    def __init__(self, owner: Owner) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the server has sent its settings."""
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the transport is closed."""
        self.leaving = False
        self._owner = owner
        self._call_soon: Callable[[Callable[[], None]], object] = loop.call_soon
        self._transport: asyncio.Transport | None = None
        self._reader = frames.FrameReader()
        self._requests = RequestBlocks()
        self._answers = AnswerBlocks()
        self._streams: dict[int, Exchange] = {}
        self._next = 1
        self._out: list[bytes] = []
        self._flushing = self._paused = False
        self._debt = 0
        self._uploads: dict[int, _Upload] = {}
        self._why = "the server closed the connection"
        # The server's settings, and its window for the connection.
        self._most = _LAST_STREAM
        self._frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._stream_window = self._window = frames.DEFAULT_WINDOW
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window,
        }

    # --- for who calls ----------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether another exchange may start now."""
        return len(self._streams) < self._most and not self.leaving

    def start(self, exchange: Exchange) -> None:
        """Sends the request of an exchange; only while there is room."""
        stream = self._next
        self._next = stream + 2
        exchange.connection, exchange.stream = self, stream
        self._streams[stream] = exchange
        block = self._requests.block(exchange.head)
        size = len(exchange.request) + _PREFIX_BYTES
        most = self._frame_bytes
        if size <= most and len(block) <= most and size <= min(self._window, self._stream_window):
            self._window -= size
            self._out.append(
                frames.head(len(block), frames.HEADERS, frames.END_HEADERS, stream)
                + block
                + _DATA_HEAD.pack(
                    *(size >> 8, size & 0xFF, frames.DATA, frames.END_STREAM, stream),
                    *(0, size - _PREFIX_BYTES),
                )
                + exchange.request
            )
        else:
            self._send_head(stream, block)
            framed = b"\0" + (size - _PREFIX_BYTES).to_bytes(4, "big") + exchange.request
            self._uploads[stream] = _Upload(memoryview(framed), self._stream_window)
            self._upload()
        self._flush_soon()
        if self._next > _LAST_STREAM:
            self._leave()

    def reset(self, exchange: Exchange, code: ErrorCode) -> None:
        """Ends an exchange before its time, if it runs."""
        if self._streams.get(exchange.stream) is exchange:
            self._send(frames.reset(exchange.stream, code))
            self._uploads.pop(exchange.stream, None)
            self._forget(exchange)

    def replenish(self, exchange: Exchange) -> None:
        """Lets the server send on, if it has used up enough for that to be worth a frame."""
        if exchange.owed >= STREAM_WINDOW // 2:
            self._send(frames.window_update(exchange.stream, exchange.owed))
            exchange.owed = 0

    def close(self) -> None:
        """Sends what is to be sent, then closes; running exchanges fail."""
        self._why = "the connection was closed here"
        if self._transport is not None and not self._transport.is_closing():
            self._out.append(frames.goaway(ErrorCode.NO_ERROR))
            self._paused = False
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- for the event loop -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the server: no dynamic table for answers, no pushes, large windows."""
        self._transport = transport  # type: ignore[assignment] # a stream's, uvloop's too
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            text = "the server does not offer HTTP/2 over TLS"
            self.ready.set_exception(CallFailed("UNAVAILABLE", text))
            return  # who waits for that closes
        greeting = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        }
        whole = frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW
        self._send(
            frames.PREFACE + frames.settings(greeting) + frames.window_update(0, whole),
        )

    def data_received(self, data: bytes) -> None:
        """Gives what came to whom it is for."""
        try:
            for kind, flags, stream, payload, size in self._reader.feed(data):
                if kind == frames.DATA:
                    self._on_data(flags, stream, payload, size)
                elif kind == frames.HEADERS:
                    self._on_headers(flags, stream, payload)
                elif (handler := self._handlers.get(kind)) is not None:
                    handler(flags, stream, payload)
        except ProtocolError as error:
            self._break(error)

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._paused = False
        if self._out:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Everybody who waits is told why."""
        why = f"the connection was lost: {exc}" if exc else self._why
        self._end(CallFailed("UNAVAILABLE", why))
        if not self.gone.done():
            self.gone.set_result(None)

    # --- frames that come -------------------------------------------------------------------------

    def _on_data(self, flags: int, stream: int, payload: bytes, size: int) -> None:
        self._debt += size
        if self._debt >= _CONNECTION_DEBT:
            self._send(frames.window_update(0, self._debt))
            self._debt = 0
        exchange = self._streams.get(stream)
        if exchange is None:
            self._check_known(stream)
            return
        exchange.owed += size
        if exchange.owed > STREAM_WINDOW:
            raise ProtocolError("more than the window holds", ErrorCode.FLOW_CONTROL_ERROR)
        exchange.on_data(payload)
        if exchange.done:
            return  # what came was no answer
        if flags & frames.END_STREAM:
            exchange.on_end()
            self._forget(exchange)
        elif exchange.owed >= STREAM_WINDOW // 2 and exchange.hungry:
            self.replenish(exchange)

    def _on_headers(self, flags: int, stream: int, block: bytes) -> None:
        exchange = self._streams.get(stream)
        if exchange is None:
            self._check_known(stream)
        elif flags & frames.END_STREAM:
            exchange.on_headers(block, self._answers, ended=True)
            self._forget(exchange)
        else:
            exchange.on_headers(block, self._answers, ended=False)

    def _check_known(self, stream: int) -> None:
        """A stream that is over may still get frames that were under way; no other may."""
        if stream >= self._next or stream % 2 == 0:
            raise ProtocolError(f"stream {stream} was never opened")

    def _on_reset(self, _: int, stream: int, payload: bytes) -> None:
        exchange = self._streams.get(stream)
        if exchange is None:
            self._check_known(stream)
            return
        self._uploads.pop(stream, None)
        self._forget(exchange)
        code = int.from_bytes(payload, "big")
        if code == ErrorCode.REFUSED_STREAM and not exchange.done:
            self._owner.on_refused(exchange)
        else:
            exchange.on_reset(code)

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & frames.ACK and payload):
            raise ProtocolError("settings of a stream, or in an acknowledgement")
        if flags & frames.ACK:
            return
        for name, value in frames.settings_in(payload):
            self._set(name, value)
        self._send(frames.head(0, frames.SETTINGS, frames.ACK))
        if not self.ready.done():
            self.ready.set_result(None)
        self._upload()
        self._owner.on_room()

    def _set(self, name: int, value: int) -> None:
        if name == Setting.HEADER_TABLE_SIZE:
            self._requests.limit_table(value)
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self._most = value
        elif name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ProtocolError(f"a window of {value}", ErrorCode.FLOW_CONTROL_ERROR)
            for upload in self._uploads.values():
                upload.window += value - self._stream_window  # which may be negative now
            self._stream_window = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value <= frames.LARGEST_FRAME_BYTES:
                raise ProtocolError(f"frames of {value} bytes")
            self._frame_bytes = value
        elif name == Setting.ENABLE_PUSH and value:
            raise ProtocolError("a server that wants pushes")

    def _on_push(self, _: int, __: int, ___: bytes) -> None:
        raise ProtocolError("a push, which nobody wants")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ProtocolError("a ping of a stream")
        if not flags & frames.ACK:
            self._send(frames.head(8, frames.PING, frames.ACK) + payload)

    def _on_goaway(self, _: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) < 8:  # noqa: PLR2004 - last stream and code
            raise ProtocolError("a farewell of a stream, or half of one")
        last, code = struct.unpack_from(">II", payload)
        text = payload[8:].decode("utf-8", "replace")
        self._why = f"the server went away: {frames.name_of(code)} {text}".rstrip()
        self._leave()
        for exchange in [each for each in self._streams.values() if each.stream > last]:
            self._uploads.pop(exchange.stream, None)
            self._forget(exchange)
            if not exchange.done:
                self._owner.on_refused(exchange)
        self._close_if_idle()

    def _on_window(self, _: int, stream: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        if not increment:
            raise ProtocolError("a window that grows by nothing")
        if stream == 0:
            self._window += increment
            if self._window > frames.LARGEST_WINDOW:
                raise ProtocolError("the window overflows", ErrorCode.FLOW_CONTROL_ERROR)
        elif (upload := self._uploads.get(stream)) is not None:
            upload.window += increment
            if upload.window > frames.LARGEST_WINDOW:
                raise ProtocolError("a window overflows", ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._check_known(stream)  # of a request that is sent
        if self._uploads:
            self._upload()

    # --- frames that go ---------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._paused or self._transport is None or not self._out:
            return
        data = b"".join(self._out)
        self._out.clear()
        if not self._transport.is_closing():
            self._transport.write(data)

    def _send_head(self, stream: int, block: bytes) -> None:
        kind = frames.HEADERS
        for at in range(0, len(block), self._frame_bytes):
            part = block[at : at + self._frame_bytes]
            flags = frames.END_HEADERS if at + len(part) == len(block) else 0
            self._out.append(frames.head(len(part), kind, flags, stream) + part)
            kind = frames.CONTINUATION

    def _upload(self) -> None:
        """Sends of waiting requests what the windows allow, the oldest first."""
        for stream, upload in list(self._uploads.items()):
            while (
                size := min(len(upload.left), self._frame_bytes, self._window, upload.window)
            ) > 0:
                last = size == len(upload.left)
                flags = frames.END_STREAM if last else 0
                self._send(frames.head(size, frames.DATA, flags, stream) + upload.left[:size])
                upload.left = upload.left[size:]
                upload.window -= size
                self._window -= size
                if last:
                    del self._uploads[stream]

    # --- the end of a stream, and of all ----------------------------------------------------------

    def _forget(self, exchange: Exchange) -> None:
        """An exchange is over; another may take its place."""
        del self._streams[exchange.stream]
        if self._uploads and self._uploads.pop(exchange.stream, None) is not None:
            # Answered before all of the request was sent: the rest is not wanted.
            self._send(frames.reset(exchange.stream, ErrorCode.NO_ERROR))
        self._owner.on_room()
        if self.leaving:
            self._close_if_idle()

    def _leave(self) -> None:
        if not self.leaving:
            self.leaving = True
            self._owner.on_leaving(self)

    def _close_if_idle(self) -> None:
        if not self._streams:
            self.close()

    def _break(self, error: ProtocolError) -> None:
        """The server broke the rules: it is told, and whoever waits fails."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames.goaway(error.code, str(error)))
            self._transport.close()
        self._end(CallFailed("INTERNAL", f"the server broke the protocol: {error}"))

    def _end(self, failure: CallFailed) -> None:
        self.leaving = True
        self._uploads.clear()
        streams, self._streams = self._streams, {}
        for exchange in streams.values():
            exchange.finish(failure)
        if not self.ready.done():
            self.ready.set_exception(CallFailed("UNAVAILABLE", failure.message))
        self._owner.on_lost(self)
