"""The life of a client: open, closed, or inherited by a forked process."""

import asyncio
import contextlib
from collections.abc import Iterator

from grpc import aio

from imagemint.client import forks
from imagemint.client.errors import ClientClosed, ClientForked, translate_error


class Lifetime:
    """Says whether a client may still be used, and translates what its calls raise.

    Args:
        server: the address or addresses of the server, for messages.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.closed = False
        self._generation = forks.generation()

    @property
    def forked(self) -> bool:
        """Whether this process inherited the client from its parent."""
        return self._generation != forks.generation()

    def check(self) -> None:
        """Does nothing for a client that is open.

        Raises:
            ClientForked: the client was made before this process was forked.
            ClientClosed: the client is closed.
        """
        if self.forked:
            raise ClientForked
        if self.closed:
            raise ClientClosed

    @contextlib.contextmanager
    def translate(self, timeout_s: float | None) -> Iterator[None]:
        """Raises the errors of this package for those that gRPC raises inside the block.

        Closing a channel cancels its calls, and gRPC raises that in the tasks that wait for them
        as asyncio.CancelledError, although nobody cancelled these tasks: a TaskGroup would take
        them for done. Only a cancellation of the task itself stays what it is.

        Args:
            timeout_s: deadline of the call in seconds, for messages; None for none.

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
            raise translate_error(error, self.server, timeout_s) from error
        except aio.UsageError:  # how gRPC refuses a call on a channel that has just been closed
            self.check()
            raise
        except asyncio.CancelledError:
            if task is None or task.cancelling() == cancelled_before:
                self.check()
            raise
