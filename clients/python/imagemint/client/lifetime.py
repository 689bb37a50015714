"""State of a client: open, closed, or inherited by a forked process."""

import asyncio
import time
from types import TracebackType

from grpc import aio

from imagemint.client import forks
from imagemint.client.errors import (
    NO_SERVER,
    ClientClosed,
    ClientForked,
    ImagemintError,
    Unavailable,
    translate_error,
)


class Lifetime:
    """Checks that a client is usable, and translates the errors of its calls.

    Args:
        server: address or addresses of the server, for messages.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.closed = False
        self.unreachable_at = 0.0
        """When a call last reached no server, as `time.monotonic` has it; 0 for never."""
        self._generation = forks.count_forks()

    @property
    def forked(self) -> bool:
        """Whether this process inherited the client from its parent."""
        return self._generation != forks.count_forks()

    def check(self) -> None:
        """Checks that the client is open.

        Raises:
            ClientForked: the client was created before this process was forked.
            ClientClosed: the client is closed.
        """
        if self.forked:
            raise ClientForked
        if self.closed:
            raise ClientClosed

    def translate(self, timeout_s: float | None) -> "_Translation":
        """Converts gRPC errors that a `with` block raises to the errors of this package.

        If a channel is closed, gRPC raises asyncio.CancelledError in the tasks that wait for its
        calls, although these tasks are not cancelled. A TaskGroup would consider them finished.
        Therefore only a cancellation of the task itself remains a CancelledError.

        Args:
            timeout_s: deadline of the call in seconds, for messages; None for no deadline.

        Raises:
            ClientClosed: the client was closed before the block or during the call.
            ImagemintError: the call failed.
        """
        self.check()
        return _Translation(self, timeout_s)

    def convert(self, error: aio.AioRpcError, timeout_s: float | None) -> ImagemintError:
        """Returns the error of this package, and notes if the call has reached no server."""
        translated = translate_error(error, self.server, timeout_s)
        if isinstance(translated, Unavailable) and translated.reason in NO_SERVER:
            self.unreachable_at = time.monotonic()
        return translated


class _Translation:
    """The block of `Lifetime.translate`.

    It is no generator of `contextlib`: from Python 3.13 on, the frame of a generator that raises an
    error refers to that of its context manager, and that one to the error and the call. The call
    would keep its connection until the garbage collector runs.
    """

    def __init__(self, lifetime: Lifetime, timeout_s: float | None) -> None:
        self._lifetime = lifetime
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelled_before = self._task.cancelling() if self._task else 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, aio.AioRpcError):
            # A local variable would refer to the new error, whose traceback refers to this frame.
            raise self._lifetime.convert(error, self._timeout_s) from error
        # gRPC raises one of these for a call on a channel that is closed.
        if isinstance(error, aio.UsageError) or (
            isinstance(error, asyncio.CancelledError)
            and (self._task is None or self._task.cancelling() == self._cancelled_before)
        ):
            self._lifetime.check()
