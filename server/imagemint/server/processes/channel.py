"""A pair of sockets that carries messages between the supervisor and one worker."""

import asyncio
import contextlib
import socket
from typing import Self

from imagemint.server.processes.messages import Message, dump_message, parse_message

_LENGTH_BYTES = 8
_MUCH_BYTES = 2**20


class Channel:
    """One end of the pair, on the running event loop.

    Each message has its length before it. No other process can connect to the socket pair, because
    it has no name.

    Args:
        reader: receives from the other end.
        writer: sends to the other end.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def from_socket(cls, end: socket.socket) -> Self:
        """Returns a channel over one end of a socket pair, and takes ownership of the socket."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: Message) -> None:
        """Sends a message; does nothing if the other end is gone."""
        packed = dump_message(message)
        if not self._writer.is_closing():
            self._writer.write(len(packed).to_bytes(_LENGTH_BYTES) + packed)

    @property
    def is_behind(self) -> bool:
        """Whether the other end has much unread; optional messages should wait then."""
        return self._writer.transport.get_write_buffer_size() > _MUCH_BYTES

    async def receive(self) -> Message | None:
        """Returns the next message; None if the other end is gone, even within a message."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            packed = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return parse_message(packed)

    async def close(self) -> None:
        """Sends the remaining messages and closes the channel."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
