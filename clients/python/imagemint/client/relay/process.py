"""The helper process: makes the calls of a forked process with its own gRPC."""

import asyncio
import contextlib
import signal
import socket
from typing import Any

from grpc import aio

from imagemint.client.channel import Certificates, ChannelPlan
from imagemint.client.duplex import FaithfulCall
from imagemint.client.relay.frames import (
    Frame,
    pack_metadata,
    read_frame,
    unpack_bytes,
    unpack_metadata,
)


def main(descriptor: int) -> None:
    """Serves the socket with this file descriptor until the other side closes it."""
    # Ctrl-C reaches the whole process group; the forked process decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(socket.socket(fileno=descriptor)))


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    plan = await read_frame(reader)
    if plan is None:
        return
    async with _open_channel(plan.header) as channel, asyncio.TaskGroup() as tasks:
        helper = _Helper(channel, writer)
        while (frame := await read_frame(reader)) is not None:
            helper.handle(frame, tasks)
        helper.cancel_all()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def _open_channel(header: dict[str, Any]) -> aio.Channel:
    certificates = header["certificates"]
    return ChannelPlan(
        address=header["address"],
        options=[(name, value) for name, value in header["options"]],
        certificates=certificates and Certificates(*map(unpack_bytes, certificates)),
    ).open()


class _Helper:
    """Starts, writes, reads and cancels calls, as the frames request."""

    def __init__(self, channel: aio.Channel, writer: asyncio.StreamWriter) -> None:
        self._channel = channel
        self._writer = writer
        self._calls: dict[int, Any] = {}

    def handle(self, frame: Frame, tasks: asyncio.TaskGroup) -> None:
        """Handles one frame."""
        number = frame.header["call"]
        match frame.header["do"]:
            case "unary":
                self._calls[number] = self._call_unary(frame)
                tasks.create_task(self._finish(number))
            case "stream":
                self._calls[number] = self._call_stream(frame)
            case "duplex":
                self._calls[number] = self._call_duplex(frame)
            case "write" if number in self._calls:
                writing = self._calls[number].write(frame.body)
                tasks.create_task(self._reply(frame.header["answer"], writing))
            case "end" if number in self._calls:
                ending = self._calls[number].done_writing()
                tasks.create_task(self._reply(frame.header["answer"], ending))
            case "read" if number in self._calls:
                tasks.create_task(self._reply(number, self._calls[number].read()))
            case "cancel" if number in self._calls:
                self._calls.pop(number).cancel()

    def cancel_all(self) -> None:
        """Cancels every active call."""
        for call in self._calls.values():
            call.cancel()

    def _call_unary(self, frame: Frame) -> Any:  # noqa: ANN401 - gRPC leaves messages of bytes untyped
        method: Any = self._channel.unary_unary(frame.header["method"])
        return method(frame.body, timeout=frame.header["timeout"], metadata=_read_metadata(frame))

    def _call_stream(self, frame: Frame) -> Any:  # noqa: ANN401 - as above
        method: Any = self._channel.unary_stream(frame.header["method"])
        return method(frame.body, metadata=_read_metadata(frame))

    def _call_duplex(self, frame: Frame) -> Any:  # noqa: ANN401 - as above
        method: Any = self._channel.stream_stream(frame.header["method"])
        return FaithfulCall(method(metadata=_read_metadata(frame)))

    async def _finish(self, number: int) -> None:
        """Answers a call with one answer, and forgets it: it would keep request and answer."""
        try:
            await self._reply(number, self._calls[number])
        finally:
            self._calls.pop(number, None)

    async def _reply(self, number: int, operation: Any) -> None:  # noqa: ANN401 - as above
        try:
            body = await operation
        except aio.AioRpcError as error:
            self._calls.pop(number, None)
            failure = {
                "call": number,
                "code": error.code().name,
                "details": error.details() or "",
                "trailing": pack_metadata(error.trailing_metadata()),
            }
            return await self._send(Frame(failure))
        except asyncio.CancelledError:
            return None  # the other side cancelled the call and expects no answer
        except asyncio.InvalidStateError:  # a write after the end, whose status the next read has
            body = None
        ended = not isinstance(body, bytes)
        return await self._send(Frame({"call": number, "ended": ended}, b"" if ended else body))

    async def _send(self, frame: Frame) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(frame.pack())
            await self._writer.drain()


def _read_metadata(frame: Frame) -> aio.Metadata:
    return aio.Metadata(*unpack_metadata(frame.header["metadata"]))
