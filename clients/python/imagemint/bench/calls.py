"""Calls in bytes over gRPC's asyncio client: prepared once, then bytes in and bytes out.

A load generator must not hide refusals, so a call is never retried. Each `Calls` has its own
connection.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
from grpc import aio

from imagemint.bench.target import CallFailed
from imagemint.client.channel import Tls, plan_channel
from imagemint.client.errors import ImagemintError

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
UnaryCall: TypeAlias = Callable[[bytes], Awaitable[bytes]]
StreamingCall: TypeAlias = Callable[[bytes], AsyncGenerator[bytes, None]]


class Calls:
    """One channel, and the calls that are prepared on it.

    Args:
        channel: an open channel.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel

    def prepare_unary(
        self, path: str, *, metadata: Metadata = (), timeout_s: float = 30.0
    ) -> UnaryCall:
        """Prepares calls with one answer each.

        Args:
            path: `/package.Service/Method`.
            metadata: sent with every call.
            timeout_s: deadline of a call, in seconds.

        Returns:
            A function from the bytes of a request to those of its answer. It raises CallFailed.
        """
        # Without serialisers gRPC sends and returns the bytes as they are.
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
        pairs = tuple(metadata) or None

        async def send(request: bytes) -> bytes:
            try:
                return await call(request, timeout=timeout_s, metadata=pairs)
            except aio.AioRpcError as error:
                raise _make_failure(error) from None

        return send

    def prepare_streaming(
        self, path: str, *, metadata: Metadata = (), timeout_s: float = 30.0
    ) -> StreamingCall:
        """Prepares calls with a stream of answers each.

        Args:
            path: `/package.Service/Method`.
            metadata: sent with every call.
            timeout_s: time that each answer may take, in seconds. The stream has no deadline.

        Returns:
            A function from the bytes of a request to those of its answers. It raises CallFailed.
        """
        call: aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(path)
        pairs = tuple(metadata) or None

        async def send(request: bytes) -> AsyncGenerator[bytes, None]:
            stream = call(request, metadata=pairs)
            try:
                while True:
                    async with asyncio.timeout(timeout_s):
                        message = await stream.read()
                    if not isinstance(message, bytes):  # end of the stream
                        return
                    yield message
            except aio.AioRpcError as error:
                raise _make_failure(error) from None
            except TimeoutError:
                raise CallFailed("DEADLINE_EXCEEDED", f"no answer in {timeout_s:g} s") from None
            finally:
                stream.cancel()

        return send


@asynccontextmanager
async def open_calls(targets: tuple[str, ...], tls: Tls | None = None) -> AsyncIterator[Calls]:
    """Opens a channel without retries.

    Args:
        targets: addresses, as `imagemint.client.channel.parse_targets` returns them.
        tls: encryption settings; None for plain text.

    Raises:
        CallFailed: a host name does not resolve.
    """
    try:
        channel = (await plan_channel(targets, tls, retries=False)).open()
    except ImagemintError as error:
        raise CallFailed("UNAVAILABLE", str(error)) from error
    async with channel:
        yield Calls(channel)


def _make_failure(error: aio.AioRpcError) -> CallFailed:
    code = error.code()
    # A full queue, an exceeded rate or quota: the server is expected to refuse excess load.
    shed = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return CallFailed(code.name, error.details() or "", shed=shed)
