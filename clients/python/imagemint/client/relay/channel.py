"""The client side of the relay, with the interface of a gRPC channel."""

import asyncio
import contextlib
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeAlias

import grpc
from grpc import aio

from imagemint.client.channel import ChannelPlan
from imagemint.client.relay.frames import (
    Frame,
    Metadata,
    pack_bytes,
    pack_metadata,
    read_frame,
    unpack_metadata,
)

# A new interpreter with the same sys.path. The spawn method of multiprocessing would import
# __main__ again, and daemonic workers of pools and data loaders are not allowed to use it.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]);"
    "from imagemint.client.relay.process import main; main(int(sys.argv[1]))"
)
_END_TIMEOUT_S = 5.0

Serializer: TypeAlias = Callable[[object], bytes]
Deserializer: TypeAlias = Callable[[bytes], object]


class RelayChannel:
    """Makes calls through a helper process; has the part of aio.Channel that the stubs use.

    Args:
        process: the helper.
        reader: reads from the helper.
        writer: writes to the helper.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._failure: aio.AioRpcError | None = None
        self._dispatcher = asyncio.create_task(self._dispatch(reader))

    @classmethod
    async def start(cls, plan: ChannelPlan) -> Self:
        """Starts a helper and returns its channel.

        Raises:
            OSError: the helper cannot be started.
        """
        own, other = socket.socketpair()
        with other:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - starting one takes milliseconds
                [sys.executable, "-c", _PROGRAM, str(other.fileno()), json.dumps(sys.path)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        reader, writer = await asyncio.open_connection(sock=own)
        certificates = plan.certificates and [
            pack_bytes(certificate) for certificate in plan.certificates
        ]
        header = {"address": plan.address, "options": plan.options, "certificates": certificates}
        writer.write(Frame(header).pack())
        return cls(process, reader, writer)

    async def close(self, grace: float | None = None) -> None:  # noqa: ARG002 - gRPC's signature
        """Cancels the active calls and ends the helper."""
        self._writer.close()
        for waiting in list(self._waiting.values()):
            waiting.cancel()
        self._dispatcher.cancel()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, _END_TIMEOUT_S)

    @property
    def has_ended(self) -> bool:
        """Whether the helper has ended, so that another channel must take its place."""
        return self._failure is not None

    async def replace(self) -> None:
        """Ends the helper, because another channel takes its place.

        Active calls fail as those of a lost connection, which clients make again.
        """
        self._fail_calls("connection reset: the names of the servers have other addresses now")
        await self.close()

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer,
        response_deserializer: Deserializer,
        **_options: object,
    ) -> Callable[..., Coroutine[Any, Any, object]]:
        """Returns a function that makes a call with one answer."""

        async def call(
            request: object,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - gRPC's signature
            metadata: Metadata | None = None,
        ) -> object:
            number = next(self._numbers)
            header = {
                "call": number,
                "do": "unary",
                "method": method,
                "timeout": timeout,
                "metadata": pack_metadata(metadata),
            }
            try:
                async with asyncio.timeout(timeout):
                    response = await self._request(Frame(header, request_serializer(request)))
            except TimeoutError:
                raise _make_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
            return response_deserializer(response.body)

        return call

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer,
        response_deserializer: Deserializer,
        **_options: object,
    ) -> "Callable[..., RelayStream]":
        """Returns a function that makes a call with many answers."""

        def call(request: object, *, metadata: Metadata | None = None) -> RelayStream:
            number = next(self._numbers)
            header = {
                "call": number,
                "do": "stream",
                "method": method,
                "metadata": pack_metadata(metadata),
            }
            self._send(Frame(header, request_serializer(request)))
            return RelayStream(self, number, response_deserializer)

        return call

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer,
        response_deserializer: Deserializer,
        **_options: object,
    ) -> "Callable[..., RelayDuplex]":
        """Returns a function that makes a call with many requests and answers."""

        def call(*, metadata: Metadata | None = None) -> RelayDuplex:
            number = next(self._numbers)
            header = {
                "call": number,
                "do": "duplex",
                "method": method,
                "metadata": pack_metadata(metadata),
            }
            self._send(Frame(header))
            return RelayDuplex(self, number, response_deserializer, request_serializer)

        return call

    async def read(self, number: int) -> Frame:
        """Returns the next answer of a streaming call."""
        return await self._request(Frame({"call": number, "do": "read"}))

    async def write(self, number: int, body: bytes | None) -> None:
        """Sends a request of a streaming call, or ends them; waits as long as the helper does.

        Args:
            number: number of the call.
            body: the request; None if no further one follows.
        """
        # Reads of the call wait at the same time, so this answer has a number of its own.
        header = {"call": number, "do": "end" if body is None else "write"}
        await self._request(Frame(header | {"answer": next(self._numbers)}, body or b""))

    def cancel(self, number: int) -> None:
        """Cancels a call."""
        self._send(Frame({"call": number, "do": "cancel"}))

    async def _request(self, frame: Frame) -> Frame:
        """Sends `frame` and waits for the answer to its call.

        Raises:
            AioRpcError: the call failed, or the helper has ended or was replaced.
        """
        if self._failure is not None:
            raise self._failure
        number = frame.header.get("answer", frame.header["call"])
        self._waiting[number] = waiting = asyncio.get_running_loop().create_future()
        try:
            self._send(frame)
            response: Frame = await waiting
        except asyncio.CancelledError:
            self.cancel(frame.header["call"])
            raise
        finally:
            del self._waiting[number]
        if "code" in response.header:
            raise _make_error(
                grpc.StatusCode[response.header["code"]],
                response.header["details"],
                unpack_metadata(response.header["trailing"]),
            )
        return response

    def _send(self, frame: Frame) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame.pack())

    async def _dispatch(self, reader: asyncio.StreamReader) -> None:
        """Passes each answer to the waiting call, until the helper ends."""
        while (frame := await read_frame(reader)) is not None:
            waiting = self._waiting.get(frame.header["call"])
            if waiting is not None and not waiting.done():
                waiting.set_result(frame)
        # As those of a lost connection, the calls can be made again, with another helper.
        why = "the helper process that makes the calls of this forked process has ended"
        self._fail_calls(f"connection reset: {why}")

    def _fail_calls(self, why: str) -> None:
        """Lets all active and later calls fail with UNAVAILABLE."""
        if self._failure is None:
            self._failure = _make_error(grpc.StatusCode.UNAVAILABLE, why)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._failure)


class RelayStream:
    """A streaming call through the helper."""

    def __init__(self, channel: RelayChannel, number: int, deserialize: Deserializer) -> None:
        self._channel = channel
        self._number = number
        self._deserialize = deserialize

    async def read(self) -> object:
        """Returns the next message; None at the end."""
        response = await self._channel.read(self._number)
        return None if response.header["ended"] else self._deserialize(response.body)

    def cancel(self) -> bool:
        """Cancels the call."""
        self._channel.cancel(self._number)
        return True


class RelayDuplex(RelayStream):
    """A call with a stream both ways through the helper."""

    def __init__(
        self,
        channel: RelayChannel,
        number: int,
        deserialize: Deserializer,
        serialize: Serializer,
    ) -> None:
        super().__init__(channel, number, deserialize)
        self._serialize = serialize

    async def write(self, request: object) -> None:
        """Sends a request."""
        await self._channel.write(self._number, self._serialize(request))

    async def done_writing(self) -> None:
        """Ends the requests."""
        await self._channel.write(self._number, None)


def _make_error(
    code: grpc.StatusCode, details: str, trailing: list[tuple[str, str | bytes]] | None = None
) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing or ()), details)
