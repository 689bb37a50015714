"""What passes between a relay channel and its helper: a JSON header and a body of bytes."""

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
    """What it is about; the key `call` numbers the call."""
    body: bytes = b""
    """A serialized protobuf message, if it carries one."""

    def packed(self) -> bytes:
        """The bytes on the wire."""
        header = json.dumps(self.header).encode()
        return _LENGTHS.pack(len(header), len(self.body)) + header + self.body


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None once the other side has gone."""
    try:
        header, body = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        return Frame(json.loads(await reader.readexactly(header)), await reader.readexactly(body))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def pack_bytes(value: bytes | None) -> str | None:
    """`value` as JSON can hold it."""
    return None if value is None else base64.b64encode(value).decode()


def unpack_bytes(text: str | None) -> bytes | None:
    """The opposite of `pack_bytes`."""
    return None if text is None else base64.b64decode(text)


def pack_metadata(metadata: Metadata | None) -> list[tuple[str, str, bool]]:
    """`metadata` as JSON can hold it: key, value, whether the value was bytes."""
    return [
        (key, base64.b64encode(value).decode(), True)
        if isinstance(value, bytes)
        else (key, value, False)
        for key, value in metadata or ()
    ]


def unpack_metadata(packed: list[tuple[str, str, bool]]) -> list[tuple[str, str | bytes]]:
    """The opposite of `pack_metadata`."""
    return [
        (key, base64.b64decode(value) if is_bytes else value) for key, value, is_bytes in packed
    ]
