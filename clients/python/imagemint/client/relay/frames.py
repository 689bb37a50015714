"""Frames between a relay channel and its helper: a JSON header and a body of bytes."""

import asyncio
import base64
import json
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

_LENGTHS = struct.Struct(">II")

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    """Content by key; `call` is the number of the call."""
    body: bytes = b""
    """Serialized protobuf message, or empty."""

    def pack(self) -> bytes:
        """Returns the bytes on the wire."""
        header = json.dumps(self.header).encode()
        return _LENGTHS.pack(len(header), len(self.body)) + header + self.body


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """Reads the next frame; returns None after the other side has closed."""
    try:
        header, body = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        return Frame(json.loads(await reader.readexactly(header)), await reader.readexactly(body))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def pack_bytes(value: bytes | None) -> str | None:
    """Returns `value` in a form that JSON can hold."""
    return None if value is None else base64.b64encode(value).decode()


def unpack_bytes(text: str | None) -> bytes | None:
    """Reverses `pack_bytes`."""
    return None if text is None else base64.b64decode(text)


def pack_metadata(metadata: Metadata | None) -> list[tuple[str, str, bool]]:
    """Returns `metadata` in a form that JSON can hold: key, value, whether the value is bytes."""
    return [
        (key, base64.b64encode(value).decode(), True)
        if isinstance(value, bytes)
        else (key, value, False)
        for key, value in metadata or ()
    ]


def unpack_metadata(packed: list[tuple[str, str, bool]]) -> list[tuple[str, str | bytes]]:
    """Reverses `pack_metadata`."""
    return [
        (key, base64.b64decode(value) if is_bytes else value) for key, value, is_bytes in packed
    ]
