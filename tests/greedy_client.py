"""An HTTP/2 client that sends many requests and reads no response: its window is 0.

Imported by name: pyproject.toml puts tests/ on the path.
"""

import asyncio
import contextlib
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4


class GreedyClient:
    """A connection of a client that never reads a response.

    Args:
        reader: of the connection.
        writer: of the connection.
    """

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer
        self._stream = 1
        setting = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
        writer.write(PREFACE + _frame(SETTINGS, 0, 0, setting))

    def call(self, method, message, **metadata):
        """Makes a call with one message and ends its side of it."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in metadata.items()},
        }
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        content = message.SerializeToString()
        content = b"\0" + struct.pack(">I", len(content)) + content
        self._writer.write(
            _frame(HEADERS, END_HEADERS, self._stream, block)
            + _frame(DATA, END_STREAM, self._stream, content)
        )
        self._stream += 2

    async def closed(self):
        """Waits until the server has closed the connection, and discards what it sends."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(2**16):
                pass


@contextlib.asynccontextmanager
async def greedy_client(address, source="127.0.0.2"):
    """Connects from its own address, which differs from those of other callers of a test."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    try:
        yield GreedyClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def _text(text):
    """Returns a string of HPACK without Huffman coding."""
    assert len(text) < 127, "one byte holds the length"
    return bytes([len(text)]) + text.encode()


def _frame(kind, flags, stream, content):
    head = struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
    return head + content
