"""A pair of sockets that carries messages between the supervisor and one worker."""

import asyncio
import contextlib
import pickle
import socket
from typing import Self, cast

from imagemint.server.processes.messages import Message

_LENGTH_BYTES = 8
_MUCH_BYTES = 2**20


class Channel:
    """One end of the pair, on the running event loop.

    Messages are pickled, as multiprocessing has it: both ends are one program of one version, and
    the pair has no name by which a stranger could reach it.

    Args:
        reader: what the other end says.
        writer: what it hears.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Returns the channel over one end of a socket pair, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: Message) -> None:
        """Sends a message; to an end that is gone, nothing."""
        packed = pickle.dumps(message)
        if not self._writer.is_closing():
            self._writer.write(len(packed).to_bytes(_LENGTH_BYTES) + packed)

    @property
    def is_behind(self) -> bool:
        """Whether the other end has left much unread: what it can do without must wait."""
        return self._writer.transport.get_write_buffer_size() > _MUCH_BYTES

    async def receive(self) -> Message | None:
        """Returns the next message; None when the other end is gone, even in mid-message."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            packed = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return cast("Message", pickle.loads(packed))  # noqa: S301 - from our own other half

    async def close(self) -> None:
        """Sends what is left and closes."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
