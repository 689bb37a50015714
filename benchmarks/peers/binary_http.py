"""HTTP peers as targets of the load generator: binary bodies over persistent connections.

Requests are serialised beforehand. Of the head of an answer, only status and length are parsed: a
client library would take more CPU time than some of the servers, on the cores that they share.
"""

import asyncio
import base64
import enum
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
from peers.messages import POOL, Content, count_images, make_inputs, refuse_streams

from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Reply, Streaming, Unary
from imagemint.engine.spec import ModelSpec

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_OK = 200
_SHED = (429, 503)


class Wire(asyncio.Protocol):
    """One connection with at most one active request (HTTP/1.1, RFC 9112)."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[bytes] | None = None
        self._buffer = bytearray()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stores the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base

    def data_received(self, data: bytes) -> None:
        """Completes the request if the whole answer has arrived."""
        self._buffer += data
        try:
            answer = parse_response(self._buffer)
        except CallFailed as error:
            self._end(error)
        else:
            if answer is not None and self._response and not self._response.done():
                self._buffer.clear()
                self._response.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails the active request."""
        self.closed = True
        self._end(CallFailed("CONNECTION_LOST", str(exc or "the server closed it")))

    async def send(self, request: bytes) -> bytes:
        """Sends a request and returns the body of the answer.

        Raises:
            CallFailed: there is no answer, or its status is not 200.
        """
        if self._transport is None or self.closed:
            raise CallFailed("CONNECTION_LOST")
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    def close(self) -> None:
        """Closes the connection."""
        if self._transport:
            self._transport.abort()

    def _end(self, error: CallFailed) -> None:
        """Fails the active request and closes the connection, which cannot be used again."""
        if self._response and not self._response.done():
            self._response.set_exception(error)
        self.close()


def parse_response(received: bytearray) -> bytes | None:
    """Returns the body of an answer; None while it is incomplete.

    Raises:
        CallFailed: the status is not 200, or the length is unknown.
    """
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head, body_at = bytes(received[: head_end + 2]), head_end + 4
    length = _LENGTH.search(head)
    if length:
        if len(received) < body_at + int(length[1]):
            return None
        body = bytes(received[body_at : body_at + int(length[1])])
    elif _CHUNKED.search(head):
        joined = _join_chunks(received, body_at)
        if joined is None:
            return None
        body = joined
    else:
        raise CallFailed("NO_LENGTH", head.decode("latin-1"))
    status = int(head.split(b" ", 2)[1])
    if status != _OK:
        raise CallFailed(f"HTTP_{status}", body[:300].decode("latin-1"), shed=status in _SHED)
    return body


def _join_chunks(received: bytearray, at: int) -> bytes | None:
    """Returns a chunked body (RFC 9112, 7.1) without trailers; None while it is incomplete."""
    parts: list[bytes] = []
    while (line_end := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:line_end].split(b";")[0], 16)
        at = line_end + 2
        if len(received) < at + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(received[at : at + size]))
        at += size + 2
    return None


class Encoding(enum.Enum):
    """Format of a request body.

    A record is the latent of an image, float32, and its class, int64, little-endian.
    """

    RECORDS = "records"
    """Concatenated records; the path has the format of the pictures."""
    TAGGED = "tagged"
    """Concatenated records, and one more byte to request PNG."""
    BASE64_JSON = "base64 json"
    """A JSON list of records in Base64."""


@dataclass(frozen=True, slots=True)
class BinaryHttp:
    """A server that receives latents and returns pictures in the bodies of POST requests.

    Attributes:
        address: HOST:PORT.
        spec: spec of the model.
        path: path of the request; `{format}` is replaced by the format of the pictures.
        encoding: format of a request body.
        timeout_s: seconds that a call may take.
        pool: number of different requests of one kind, used in turn.
    """

    address: str
    spec: ModelSpec
    path: str = "/{format}"
    encoding: Encoding = Encoding.RECORDS
    timeout_s: float = 30.0
    pool: int = POOL

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["HttpConnection"]:
        """Opens a pool that grows to one connection per active call."""
        connection = HttpConnection(self)
        try:
            yield connection
        finally:
            connection.close()


class HttpConnection:
    """Connections to one server, each with one active call.

    Args:
        target: the server.
    """

    def __init__(self, target: BinaryHttp) -> None:
        self._target = target
        self._idle: list[Wire] = []
        self._all: set[Wire] = set()

    def prepare_unary(self, kind: RequestKind, seed: int) -> Unary:
        """Prepares calls."""
        target = self._target
        requests = [make_request(target, kind, seed, turn) for turn in range(target.pool)]
        image_bytes, framed = target.spec.image_bytes, kind.format != "raw"

        async def send(turn: int) -> Reply:
            body = await self._post(requests[turn % target.pool])
            return count_images(Content(body, framed), kind, image_bytes)

        return send

    def prepare_streaming(self, kind: RequestKind, seed: int) -> Streaming:
        """Raises CallFailed, because the server has no streams."""
        del kind, seed
        return refuse_streams()

    def compute_fingerprint(self, content: object) -> bytes:
        """Returns the pictures."""
        if not isinstance(content, Content):
            raise TypeError(f"{type(content).__name__} is not an answer of a peer")
        return content.payload

    def close(self) -> None:
        """Closes all connections."""
        for wire in self._all:
            wire.close()

    async def _post(self, message: bytes) -> bytes:
        while self._idle and self._idle[-1].closed:
            self._all.discard(self._idle.pop())
        wire = self._idle.pop() if self._idle else await self._open_wire()
        try:
            async with asyncio.timeout(self._target.timeout_s):
                body = await wire.send(message)
        except TimeoutError:
            wire.close()
            raise CallFailed("DEADLINE_EXCEEDED") from None
        self._idle.append(wire)  # not after an error: the rest of the answer may still arrive
        return body

    async def _open_wire(self) -> Wire:
        host, _, port = self._target.address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            _, wire = await loop.create_connection(Wire, host, int(port))
        except OSError as error:
            raise CallFailed("UNAVAILABLE", str(error)) from None
        self._all.add(wire)
        return wire


def make_request(target: BinaryHttp, kind: RequestKind, seed: int, turn: int) -> bytes:
    """Returns one request, head and body. The same turn of a seed gives the same request."""
    z, class_id = make_inputs(target.spec, kind, seed, turn)
    records = np.empty(kind.count, [("z", "<f4", z.shape[1:]), ("class_id", "<i8", (1,))])
    records["z"], records["class_id"] = z, class_id
    body, content_type = records.tobytes(), "application/octet-stream"
    match target.encoding:
        case Encoding.TAGGED:
            body += b"" if kind.format == "raw" else b"P"
        case Encoding.BASE64_JSON:
            texts = [base64.b64encode(record.tobytes()).decode() for record in records]
            body, content_type = json.dumps(texts).encode(), "application/json"
        case Encoding.RECORDS:
            pass
    head = (
        f"POST {target.path.format(format=kind.format)} HTTP/1.1\r\n"
        f"Host: {target.address}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
