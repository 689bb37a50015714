"""HTTP/2 frames (RFC 9113, sections 4 and 6): bytes in, frames out, and the other way."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
# What every peer takes, and what we announce by saying nothing.
DEFAULT_FRAME_BYTES = 2**14
LARGEST_FRAME_BYTES = 2**24 - 1
DEFAULT_WINDOW = 2**16 - 1
LARGEST_WINDOW = 2**31 - 1

# Plain integers: an enum's attributes would cost a look-up for every frame.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

# DATA and HEADERS without anything that would have to be taken off or added.
_SHAPE = END_HEADERS | PADDED | WITH_PRIORITY
_PLAIN = {(0, DATA), (END_HEADERS, DATA), (END_HEADERS, HEADERS)}

_HEAD = struct.Struct(">HBBBI")  # 24 bits of length in two parts, type, flags, stream
_LENGTHS = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
# A header block is small; who sends more than this in CONTINUATION wants our memory.
_LARGEST_BLOCK = 2**18


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def name_of(code: int) -> str:
    """The name of an error code, or the number of one that is unknown here."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)


class Setting(IntEnum):
    """Names of settings (RFC 9113, section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ProtocolError(Exception):
    """The peer broke the protocol; the connection cannot go on.

    Args:
        message: text for people.
        code: what the peer is told.
    """

    def __init__(self, message: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Frame(NamedTuple):
    """One frame that came.

    Padding and priorities are gone, and HEADERS hold the whole block, that of the CONTINUATION
    frames included.
    """

    kind: int
    flags: int
    stream: int
    payload: bytes
    size: int
    """Length on the wire, which is what flow control counts."""


class FrameReader:
    """Cuts what arrives into frames, wherever it was cut on the way."""

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False
        self._block: list[bytes] = []  # of HEADERS whose CONTINUATION is to come
        self._block_of = Frame(HEADERS, 0, 0, b"", 0)

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes, int]]:
        """The frames that `data` completes, as plain tuples; must be read to the end.

        Raises:
            ProtocolError: these are no frames, or not in an order that is allowed.
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            length = high << 8 | low
            if not self._greeted:
                self._greet(kind, flags, data)
            if length > DEFAULT_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
            after = at + HEAD_BYTES + length
            if after > end:
                break
            payload = data[at + HEAD_BYTES : after]
            at = after
            stream &= LARGEST_WINDOW  # the highest bit means nothing
            if (flags & _SHAPE, kind) in _PLAIN and stream and not self._block:
                yield kind, flags, stream, payload, length  # by far the most
            elif (frame := self._whole(kind, flags, stream, payload)) is not None:
                yield frame
        self._rest = data[at:]

    def _greet(self, kind: int, flags: int, data: bytes) -> None:
        """The first frame must be the settings, or it is no HTTP/2 at all."""
        if kind != SETTINGS or flags & ACK:
            raise ProtocolError(f"this is not HTTP/2: {data[:40]!r}")
        self._greeted = True

    def _whole(self, kind: int, flags: int, stream: int, payload: bytes) -> Frame | None:
        """The frame without what is optional in it; None until it is whole."""
        size = len(payload)
        if self._block and (kind != CONTINUATION or stream != self._block_of.stream):
            raise ProtocolError("a header block was interrupted")
        if kind in (DATA, HEADERS):
            if stream == 0:
                raise ProtocolError("a message on stream 0")
            payload = _plain(kind, flags, payload)
        elif kind == CONTINUATION:
            return self._continued(flags, payload)
        elif (fixed := _LENGTHS.get(kind)) is not None and size != fixed:
            raise ProtocolError(f"type {kind} with {size} bytes", ErrorCode.FRAME_SIZE_ERROR)
        frame = Frame(kind, flags, stream, payload, size)
        if kind == HEADERS and not flags & END_HEADERS:
            self._block, self._block_of = [payload], frame
            return None
        return frame

    def _continued(self, flags: int, payload: bytes) -> Frame | None:
        if not self._block:
            raise ProtocolError("a continuation of nothing")
        self._block.append(payload)
        if sum(map(len, self._block)) > _LARGEST_BLOCK:
            raise ProtocolError("endless headers", ErrorCode.ENHANCE_YOUR_CALM)
        if not flags & END_HEADERS:
            return None
        whole, self._block = b"".join(self._block), []
        return self._block_of._replace(
            payload=whole, size=len(whole), flags=self._block_of.flags | END_HEADERS
        )


def _plain(kind: int, flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority."""
    begin, end = 0, len(payload)
    if flags & PADDED:
        begin, end = 1, end - payload[0] if payload else -1
    if kind == HEADERS and flags & WITH_PRIORITY:
        begin += 5
    if begin > end:
        raise ProtocolError("more padding than frame")
    return payload[begin:end]


def head(length: int, kind: int, flags: int = 0, stream: int = 0) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(struct.pack(">HI", name, value) for name, value in values.items())
    return head(len(payload), SETTINGS) + payload


def settings_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """Names and values in the payload of SETTINGS.

    Raises:
        ProtocolError: a part is missing.
    """
    if len(payload) % 6:
        raise ProtocolError("half a setting", ErrorCode.FRAME_SIZE_ERROR)
    return struct.iter_unpack(">HI", payload)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame: so many more bytes are welcome."""
    return head(4, WINDOW_UPDATE, 0, stream) + increment.to_bytes(4, "big")


def reset(stream: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return head(4, RST_STREAM, 0, stream) + code.to_bytes(4, "big")


def goaway(code: ErrorCode, why: str = "") -> bytes:
    """A GOAWAY frame of a client: no stream of the peer's was ever taken."""
    text = why.encode()
    return head(8 + len(text), GOAWAY) + struct.pack(">II", 0, code) + text
