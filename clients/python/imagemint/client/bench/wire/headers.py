"""Header blocks (HPACK, RFC 7541) for who makes the same call over and over.

Requests: once their fields are in the dynamic table, every further block of them is the same few
bytes, until the table changes. Answers: we announce a table of size 0, so that no block depends on
those before it, and may be looked up by its bytes, or searched, instead of being decoded.
"""

from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote

from google.rpc import code_pb2
from hpack import Decoder, Encoder, HPACKError

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire.frames import ErrorCode, ProtocolError

Fields: TypeAlias = list[tuple[bytes, bytes]]

# `grpc-status: 0` as a literal without Huffman coding, which is how gRPC's core writes it. No field
# value may hold the control characters in it (RFC 9110, section 5.5), so it stands for itself
# wherever it is found; other spellings are decoded.
_OK = b"\x0bgrpc-status\x010"
# The first blocks of answers are all alike; where they are not, the memory of them stays small.
_KEPT = 64


class Head:
    """The header fields of one kind of request; compared by identity."""

    __slots__ = ("fields",)

    def __init__(self, fields: Fields) -> None:
        self.fields = fields


class RequestBlocks:
    """Encodes the heads of requests on one connection, in the order in which they are sent."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._constant: dict[Head, bytes] = {}
        # Limits since the last block: the next one begins with the least and the latest of them.
        # (hpack would announce every one, those too that no longer hold.)
        self._limits: list[int] = []

    def limit_table(self, size: int) -> None:
        """The peer keeps a dynamic table of at most `size` bytes from now on."""
        # Its default is enough for us, whatever more it offers.
        self._limits.append(min(size, 4096))
        self._constant.clear()

    def block(self, head: Head) -> bytes:
        """The block of a request, which must be the next to be sent."""
        found = self._constant.get(head)
        if found is not None:
            return found
        if self._limits:
            # Set twice to the same, hpack would forget to announce it.
            for size in sorted({min(self._limits), self._limits[-1]}):
                self._encoder.header_table_size = size
            self._limits.clear()
        table = self._encoder.header_table
        settled = not table.resized
        newest = table.dynamic_entries[0] if table.dynamic_entries else None
        block = self._encoder.encode(head.fields)
        # Every insertion puts another object in front.
        if (table.dynamic_entries[0] if table.dynamic_entries else None) is not newest:
            self._constant.clear()  # the indices of all others have moved
        elif settled:
            self._constant[head] = block
        return block


@dataclass(frozen=True, slots=True)
class Opening:
    """How an answer begins.

    Attributes:
        informational: it does not begin yet (a status of 100 to 199).
        fault: why it is no answer of gRPC; empty if it is one.
    """

    informational: bool = False
    fault: str = ""


class AnswerBlocks:
    """Reads the header blocks of answers on one connection."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0
        self._openings: dict[bytes, Opening] = {}

    def opening(self, block: bytes) -> Opening:
        """What the first block of an answer says.

        Raises:
            ProtocolError: it cannot be decoded.
        """
        found = self._openings.get(block)
        if found is None:
            found = _opening(self._decoded(block))
            if len(self._openings) == _KEPT:
                self._openings.clear()
            self._openings[block] = found
        return found

    def failure(self, block: bytes) -> CallFailed | None:
        """What the trailers of an answer say; None for success.

        Raises:
            ProtocolError: they cannot be decoded.
        """
        return None if _OK in block else _failure(self._decoded(block), "")

    def only_failure(self, block: bytes) -> CallFailed | None:
        """What a block says that is an opening and trailers in one; None for success.

        Raises:
            ProtocolError: it cannot be decoded.
        """
        fields = self._decoded(block)
        return _failure(fields, _opening(fields).fault)

    def _decoded(self, block: bytes) -> dict[bytes, bytes]:
        try:
            return dict(self._decoder.decode(block, raw=True))
        except HPACKError as error:
            code = ErrorCode.COMPRESSION_ERROR
            raise ProtocolError(f"a header block: {error}", code) from None


def _opening(fields: dict[bytes, bytes]) -> Opening:
    status = fields.get(b":status", b"").decode("latin-1")
    if status.startswith("1"):
        return Opening(informational=True)
    if status != "200":
        return Opening(fault=f"HTTP status {status or 'missing'}")
    kind = fields.get(b"content-type", b"").decode("latin-1")
    if not kind.startswith("application/grpc"):
        return Opening(fault=f"content-type {kind or 'missing'}")
    return Opening()


def _failure(fields: dict[bytes, bytes], fault: str) -> CallFailed | None:
    status = fields.get(b"grpc-status")
    if status is None:
        return CallFailed("UNKNOWN", fault or "the answer has no grpc-status")
    if status == b"0":
        return None
    message = unquote(fields.get(b"grpc-message", b"").decode("latin-1"), errors="replace")
    if not status.isdigit() or int(status) not in code_pb2.Code.values():
        return CallFailed("UNKNOWN", f"grpc-status {status.decode('latin-1')}: {message}")
    name = code_pb2.Code.Name(code_pb2.Code.ValueType(int(status)))
    # What a full queue, a rate and a quota answer: the server protects itself, as it should.
    return CallFailed(name, message, shed=name == "RESOURCE_EXHAUSTED")
