"""Calls with a stream both ways, which keep the answers and the status that the server sent."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from grpc import StatusCode, aio

_LOST = "Internal error from Core"
_STATUS_TIMEOUT_S = 1.0
_POLL_S = 0.01

ResultT = TypeVar("ResultT")


class DuplexCall(Protocol):
    """A call with a stream both ways, through grpc.aio or the relay."""

    async def read(self) -> object:
        """Returns the next answer, or any object that is not a message at the end."""

    async def write(self, request: Any) -> None:  # noqa: ANN401 - a message, or bytes in the relay
        """Sends a request; waits while flow control does not allow it."""

    async def done_writing(self) -> None:
        """Ends the requests."""

    def cancel(self) -> bool:
        """Cancels the call."""


class FaithfulCall:
    """A call of grpc.aio with all answers and the status that the server sent.

    If a write fails as the call ends, grpc.aio replaces the status by INTERNAL
    (https://github.com/grpc/grpc/issues/36066), and its `read` no longer returns the answers that
    have arrived. The status of the server arrives after them. If it does not, the error is
    UNAVAILABLE: the call was cut, and the caller may try again.

    Args:
        call: the call, which has just been started.
    """

    def __init__(self, call: "aio.StreamStreamCall[Any, Any]") -> None:
        self._call = call
        self._error: aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    async def read(self) -> object:
        """Returns the next answer; `grpc.aio.EOF` at the end.

        Raises:
            AioRpcError: the call failed, with the status of the server.
        """
        try:
            return await self._call.read()
        except aio.AioRpcError as error:
            if self._error is None and error.details() == _LOST:
                call: Any = self._call  # the method reads on although a write has failed
                answer = await call._read()  # noqa: SLF001 - see above
                if answer is not aio.EOF:
                    return answer
            found = await self._find_status(error)
            if found.code() is StatusCode.OK:
                return aio.EOF
            raise _copy(found) from None

    async def write(self, request: object) -> None:
        """Sends a request.

        Raises:
            AioRpcError, InvalidStateError: the call has ended; `read` raises its status.
        """
        await self._call.write(request)

    async def done_writing(self) -> None:
        """Ends the requests."""
        await self._call.done_writing()

    def cancel(self) -> bool:
        """Cancels the call."""
        return self._call.cancel()

    def _keep(self, call: Any) -> None:  # noqa: ANN401 - gRPC leaves it untyped
        """Keeps the status at the moment when the call ends."""
        error = _make_error(call)
        if error.details() != _LOST:
            self._error = error

    async def _find_status(self, error: aio.AioRpcError) -> aio.AioRpcError:
        """Returns the error with the status of the server, or with UNAVAILABLE if it is lost."""
        for _ in range(round(_STATUS_TIMEOUT_S / _POLL_S)):
            if self._error is not None or error.details() != _LOST:
                break
            await asyncio.sleep(_POLL_S)
            self._keep(self._call)
        if self._error is not None or error.details() != _LOST:
            return self._error or error
        return aio.AioRpcError(
            StatusCode.UNAVAILABLE,
            error.initial_metadata(),
            error.trailing_metadata(),
            "the call ended, and gRPC lost its status",
        )


def _make_error(call: Any) -> aio.AioRpcError:  # noqa: ANN401 - as above
    return aio.AioRpcError(
        _finish(call.code()),
        aio.Metadata(),
        _finish(call.trailing_metadata()),
        _finish(call.details()),
    )


def _copy(error: aio.AioRpcError) -> aio.AioRpcError:
    """Returns an error to raise. The traceback of a kept one would refer to the call for ever."""
    return aio.AioRpcError(
        error.code(), error.initial_metadata(), error.trailing_metadata(), error.details()
    )


def _finish(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Returns the result of a coroutine that does not wait, because the call has ended."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: ResultT = end.value
        return result
    coroutine.close()
    raise RuntimeError("the call has not ended")
