"""State of a client: open, closed, or inherited by a forked process."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

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

    @contextlib.contextmanager
    def translate(self, timeout_s: float | None) -> Iterator[None]:
        """Converts gRPC errors that the block raises to the errors of this package.

        If a channel is closed, gRPC raises asyncio.CancelledError in the tasks that wait for its
        calls, although these tasks are not cancelled. A TaskGroup would consider them finished.
        Therefore only a cancellation of the task itself remains a CancelledError.

        Args:
            timeout_s: deadline of the call in seconds, for messages; None for no deadline.

        Raises:
            ClientClosed: the client was closed during the call.
            ImagemintError: the call failed.
        """
        self.check()
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        try:
            yield
        except aio.AioRpcError as error:
            # A local variable would refer to the error, whose traceback refers to this frame: the
            # call would keep its connection until the garbage collector runs.
            raise self._translate(error, timeout_s) from error
        except aio.UsageError:  # gRPC raises it for a call on a channel that is closed
            self.check()
            raise
        except asyncio.CancelledError:
            if task is None or task.cancelling() == cancelled_before:
                self.check()
            raise

    def _translate(self, error: aio.AioRpcError, timeout_s: float | None) -> ImagemintError:
        """Returns the error of this package, and notes if the call has reached no server."""
        translated = translate_error(error, self.server, timeout_s)
        if isinstance(translated, Unavailable) and translated.reason in NO_SERVER:
            self.unreachable_at = time.monotonic()
        return translated
