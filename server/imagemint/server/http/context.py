"""The context of an RPC over HTTP, for the handlers of RPCs."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, Protocol

from imagemint.server.access.caller import Metadata
from imagemint.server.http.problems import Problem, make_problem


class _Code(Protocol):
    """A status code of gRPC."""

    @property
    def name(self) -> str:
        """Name of the code, such as ``NOT_FOUND``."""


class RpcFailed(Exception):  # noqa: N818 - the name states the condition, as in imagemint.engine.errors
    """An RPC failed; the caller gets `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class HttpContext:
    """The part of gRPC's `ServicerContext` that the handlers of RPCs use.

    Args:
        peer: the client, as gRPC names it: ``ipv4:HOST:PORT`` or ``ipv6:[HOST]:PORT``.
        metadata: the headers of the request.
        deadline: `time.monotonic` value at which the caller stops waiting; None for never.
        write: sends one answer of a stream; returns when flow control has accepted it.
    """

    def __init__(
        self,
        peer: str,
        metadata: Metadata,
        deadline: float | None,
        write: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._peer = peer
        self._metadata = tuple(metadata)
        self._deadline = deadline
        self._write = write
        self._callbacks: list[Callable[[Any], None]] = []

    def peer(self) -> str:
        """Returns the client."""
        return self._peer

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Returns the headers of the request."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline; None without a deadline."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def set_trailing_metadata(self, metadata: object) -> None:
        """Does nothing: the answer has the request id as a header."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls a function when the answer was sent."""
        self._callbacks.append(callback)

    def finish(self) -> None:
        """Calls the functions of `add_done_callback`: the answer was sent, or the client left."""
        for callback in self._callbacks:
            callback(self)

    async def write(self, message: Any) -> None:  # noqa: ANN401 - any message
        """Sends one answer of a stream."""
        await self._write(message)

    async def abort(
        self, code: _Code, message: str, trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Ends the call with an error.

        Raises:
            RpcFailed: always.
        """
        raise RpcFailed(make_problem(code.name, message, trailing_metadata))
