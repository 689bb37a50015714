"""The protocols between the load generator and the server under test.

The generator uses these protocols and does not depend on gRPC. `imagemint.bench.imagemint_target`
implements them for imagemint's own service; a comparison may implement them for any other server. A
target is sent to the client processes, so it must pickle. Its connections belong to one process and
one event loop.

A target prepares requests before the measurement. Its work for each call counts as cost of the
client; see `imagemint.bench.client_cost`.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from imagemint.bench.mix import RequestKind


class CallFailed(Exception):  # noqa: N818 - the name says it
    """A call failed.

    Args:
        code: stable name to count it by, such as the gRPC status code or `HTTP_503`.
        message: text for people.
        shed: whether the server refused the call because of load, as it should. Such calls are
            counted separately from failures.
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
    """Number of images in the answer."""
    content: object
    """The argument of `Connection.compute_fingerprint`; opaque to the generator."""


class Unary(Protocol):
    """Prepared calls of one kind."""

    async def __call__(self, turn: int) -> Reply:
        """Makes one call. Equal turns make equal requests.

        Raises:
            CallFailed: there is no answer, or the number of images is wrong.
        """
        ...


class Streaming(Protocol):
    """Prepared streams of one kind."""

    def __call__(self, turn: int) -> AsyncGenerator[Reply, None]:
        """Returns the chunks of one stream; closing the generator ends the stream.

        Raises:
            CallFailed: the stream broke, or ended early.
        """
        ...


class Connection(Protocol):
    """One connection to the server."""

    def prepare_unary(self, request_kind: RequestKind, seed: int) -> Unary:
        """Prepares calls of one kind.

        Args:
            request_kind: the kind of request.
            seed: seed of the images.
        """
        ...

    def prepare_streaming(self, request_kind: RequestKind, seed: int) -> Streaming:
        """Prepares streams of one kind; arguments as `prepare_unary`.

        Raises:
            CallFailed: with the code UNIMPLEMENTED, the server has no streams.
        """
        ...

    def compute_fingerprint(self, content: object) -> bytes:
        """Returns a digest of what answers to equal requests share: pixels and serials."""
        ...


class Target(Protocol):
    """A server and its protocol. It must be possible to pickle it."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Opens one connection, on the running event loop."""
        ...
