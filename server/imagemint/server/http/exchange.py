"""An HTTP request that is answered as an RPC, and the bytes of its answer."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from imagemint.engine.errors import DeadlinePassed, InvalidRequest, Violation, shorten
from imagemint.server.http.context import HttpContext
from imagemint.server.http.entity_tags import NOT_MODIFIED, is_named
from imagemint.server.http.json_messages import encode_line, is_large
from imagemint.server.http.negotiation import choose_media_type, parse_media_type
from imagemint.server.http.problems import Problem

NDJSON = "application/x-ndjson"

# The transport buffers what its client does not read. Pieces of this size keep the buffer small,
# because each one waits until the buffer has room.
_PIECE_BYTES = 64 * 2**10
_TIMEOUT_HEADER = "x-request-timeout"
_GRPC_TIMEOUT_HEADER = "grpc-timeout"
_GRPC_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LONGEST_TIMEOUT_S = 1e6


class Exchange:
    """One HTTP request and its answer.

    Args:
        scope: ASGI scope of the request.
        receive: receives the body and the end of the connection.
        send: sends the answer.
        most_bytes: largest body to accept.

    Attributes:
        headers: headers of the request.
        query: query parameters of the request.
        path: parameters of the path, by name.
        body: the body, once `read_body` has read it.
        context: context for the handlers of RPCs.
        deadline: `time.monotonic` value at which the caller stops waiting; None for never.
        has_begun: whether a part of the answer was sent.
        failure_status: HTTP status of a failure; None for the status of its code.
        spell_field: returns the caller's name of a field that an RPC refuses.
        request_id: the caller's id for the request; '' without one.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, most_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._most_bytes = most_bytes
        self.headers = Headers(scope=scope)
        self.query = QueryParams(scope["query_string"])
        self.path: Mapping[str, str] = scope["path_params"]
        self.body = b""
        self.has_begun = False
        self._rest = memoryview(b"")  # of the line that is being sent
        self.failure_status: int | None = None
        self.spell_field: Callable[[str], str] = str
        self.request_id = ""
        self.body_read = asyncio.Event()
        self.deadline_error: InvalidRequest | DeadlinePassed | None = None
        self.deadline = self._read_deadline()
        self.context = HttpContext(
            _name_peer(scope), self.headers.items(), self.deadline, self._write_line
        )

    def _read_deadline(self) -> float | None:
        try:
            timeout_s = _read_timeout(self.headers)
        except InvalidRequest as error:
            self.deadline_error = error
            return None
        if timeout_s is not None and timeout_s <= 0:
            self.deadline_error = DeadlinePassed("the deadline passed before the request arrived")
            return None
        return None if timeout_s is None else time.monotonic() + timeout_s

    async def read_body(self, timeout_s: float) -> None:
        """Reads the body.

        Raises:
            InvalidRequest: it is too large, is compressed, or did not arrive in time.
                `failure_status` tells which. Or the deadline is malformed.
            DeadlinePassed: the caller has stopped waiting.
            asyncio.CancelledError: the client has left.
        """
        if self.deadline_error is not None:
            raise self.deadline_error
        coding = self.headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity"):
            self.failure_status = 415
            why = f"{shorten(coding)!r} is not supported; send the body as it is"
            raise InvalidRequest([Violation("content-encoding", why)])
        if int(self.headers.get("content-length", "0")) > self._most_bytes:
            raise self._refuse_size()
        pieces, size = [], 0
        try:
            async with asyncio.timeout(timeout_s):
                more = True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise asyncio.CancelledError
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > self._most_bytes:
                        raise self._refuse_size()
                    more = message.get("more_body", False)
        except TimeoutError:
            self.failure_status = 408
            raise _refuse_body(f"it did not come within {timeout_s:g} s") from None
        self.body = b"".join(pieces)
        self.body_read.set()

    def _refuse_size(self) -> InvalidRequest:
        self.failure_status = 413
        return _refuse_body(f"it has more than {self._most_bytes} bytes")

    @property
    def content_type(self) -> str:
        """Media type of the body, without parameters; '' without one."""
        return parse_media_type(self.headers.get("content-type", ""))

    def refuse_content_type(self, known: Sequence[str]) -> InvalidRequest:
        """Returns the error of a body that has none of the known media types."""
        self.failure_status = 415
        why = f"{shorten(self.content_type)!r} is none of {', '.join(known)}"
        return InvalidRequest([Violation("content-type", why)])

    def choose_media_type(self, offered: Sequence[str]) -> str:
        """Returns the media type of the answer that the caller prefers; see `negotiation`.

        Raises:
            InvalidRequest: the caller excludes all types.
        """
        chosen = choose_media_type(", ".join(self.headers.getlist("accept")), offered)
        if chosen is None:
            self.failure_status = 406
            raise InvalidRequest([Violation("accept", f"excludes {', '.join(offered)}")])
        return chosen

    def has_copy(self, etag: str) -> bool:
        """Returns whether the caller has a copy with this entity tag."""
        return is_named(etag, ", ".join(self.headers.getlist("if-none-match")))

    async def wait_until_left(self) -> None:
        """Returns when the client has closed its connection; call it once."""
        await self.body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # --- the answer -------------------------------------------------------------------------------

    async def answer(
        self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Sends a whole answer."""
        headers = dict(headers or {})
        if status != NOT_MODIFIED:  # its length would be that of the picture
            headers["content-length"] = str(len(body))
        await self._begin(status, headers)
        view = memoryview(body)
        for start in range(0, len(body), _PIECE_BYTES):
            await self._send_piece(bytes(view[start : start + _PIECE_BYTES]))
        await self._end()

    async def answer_problem(self, problem: Problem) -> None:
        """Sends an error; at the end of a stream as its last line.

        A deadline may have passed in the middle of a line, which is completed first. Otherwise the
        client could read neither of the two.
        """
        if self.has_begun:
            await self._send_rest()
            await self._send_piece(encode_line({"error": problem.as_dict()}))
            await self._end()
            return
        await self.answer(problem.encode(), status=problem.status, headers=problem.make_headers())

    async def end_stream(self) -> None:
        """Ends a stream, even one without any line."""
        if not self.has_begun:
            await self._begin_stream()
        await self._end()

    async def _write_line(self, message: Any) -> None:  # noqa: ANN401 - any message
        """Sends one message of a stream, which has a batch, as a line of JSON."""
        if not self.has_begun:
            await self._begin_stream()
        if is_large(message.batch):
            line = await asyncio.to_thread(encode_line, message)
        else:
            line = encode_line(message)
        self._rest = memoryview(line)
        await self._send_rest()

    async def _send_rest(self) -> None:
        # A piece whose sending is cancelled was not sent: the server waits for room only before it.
        while self._rest:
            await self._send_piece(bytes(self._rest[:_PIECE_BYTES]))
            self._rest = self._rest[_PIECE_BYTES:]

    async def _begin_stream(self) -> None:
        # Without the last header, some proxies collect the whole answer before they pass it on.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        await self._begin(200, {"content-type": NDJSON, **headers})

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        if self.request_id:
            headers = {"x-request-id": self.request_id, **headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _send_piece(self, piece: bytes) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _name_peer(scope: Scope) -> str:
    """Returns the client's address as gRPC spells it."""
    host, port = scope["client"] or ("", 0)
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _read_timeout(headers: Headers) -> float | None:
    """Returns the seconds that the caller waits; None for no limit.

    Callers send what is left of a deadline of their own, so a number may be 0 or negative.

    Raises:
        InvalidRequest: the header is not a time, or is there more than once.
    """
    for name in (_TIMEOUT_HEADER, _GRPC_TIMEOUT_HEADER):
        if len(headers.getlist(name)) > 1:
            raise InvalidRequest([Violation(name, "the request has this header more than once")])
    if text := headers.get(_TIMEOUT_HEADER):
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not seconds <= _LONGEST_TIMEOUT_S:  # true of NaN
            why = f"{shorten(text)!r} is not a number of seconds up to 1000000"
            raise InvalidRequest([Violation(_TIMEOUT_HEADER, why)])
        return seconds
    if text := headers.get(_GRPC_TIMEOUT_HEADER):
        found = _GRPC_TIMEOUT.fullmatch(text)
        if found is None:
            why = f"{shorten(text)!r} is not a time such as 500m"
            raise InvalidRequest([Violation(_GRPC_TIMEOUT_HEADER, why)])
        return int(found[1]) * _UNITS_S[found[2]]
    return None


def _refuse_body(why: str) -> InvalidRequest:
    return InvalidRequest([Violation("body", why)])
