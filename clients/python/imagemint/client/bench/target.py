"""The seam between the load generator and whatever it drives.

The generator knows these protocols and nothing of gRPC: `imagemint.client.bench.mint` implements
them for imagemint's own service, a comparison may implement them for any other server. A target is
sent to the client processes, so it must pickle; what it opens lives in one of them, on one event
loop.

What a target prepares before the clock runs costs nothing; what it does for each call is charged to
the client, see `imagemint.client.bench.effort`.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from imagemint.client.bench.mix import Ask


class CallFailed(Exception):  # noqa: N818 - the name says it
    """A call that brought no answer.

    Args:
        code: stable name to count it by, such as the gRPC status code or `HTTP_503`.
        message: text for people.
        shed: whether the server refused the call because of load, as it is meant to; such calls
            are counted apart from failures.
    """

    def __init__(self, code: str, message: str = "", *, shed: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.shed = shed

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class Reply(NamedTuple):
    """An answer, or one chunk of a stream."""

    images: int
    """Images that it brought, counted in the answer and not assumed."""
    content: object
    """What `Connection.fingerprint` takes; nobody else looks inside."""


class Unary(Protocol):
    """Calls of one kind, ready to be sent."""

    async def __call__(self, turn: int) -> Reply:
        """Makes one call; the same turn is the same request.

        Raises:
            CallFailed: there is no answer, or not the images that were asked for.
        """
        ...


class Streaming(Protocol):
    """Streams of one kind, ready to be asked for."""

    def __call__(self, turn: int) -> AsyncGenerator[Reply, None]:
        """The chunks of one stream; closing the generator ends the stream.

        Raises:
            CallFailed: the stream broke, or ended before it was whole.
        """
        ...


class Connection(Protocol):
    """One connection to the server."""

    def unary(self, ask: Ask, reel: int) -> Unary:
        """Prepares calls of one kind.

        Args:
            ask: what to ask for.
            reel: seed; different reels ask for different images.
        """
        ...

    def streaming(self, ask: Ask, reel: int) -> Streaming:
        """Prepares streams of one kind; arguments as `unary`.

        Raises:
            CallFailed: with the code UNIMPLEMENTED, the server knows no streams.
        """
        ...

    def fingerprint(self, content: object) -> bytes:
        """What must be equal for two answers to the same request: pixels, and serials if any."""
        ...


class Target(Protocol):
    """A server, and how to speak to it. Must pickle."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Opens one connection, on the running event loop."""
        ...
