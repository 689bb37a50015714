"""The client for ordinary code: each method of `AsyncClient`, run on a portal.

`_blocking` and `_iterating` wrap the methods and keep their signatures, types and documentation, so
nothing is written twice.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from imagemint.client.api import AsyncClient
from imagemint.client.channel import Tls
from imagemint.client.portal import Portal

P = ParamSpec("P")
ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, ResultT]],
) -> Callable[Concatenate["Client", P], ResultT]:
    """`method` for Client: waits for the result."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        return self._portal.wait(method(self._client, *args, **kwargs))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[ItemT, None]],
) -> Callable[Concatenate["Client", P], Generator[ItemT, None, None]]:
    """`method` for Client: a generator that fetches an item only when it is asked for one.

    Nothing is fetched ahead, so a slow consumer holds the server back as it does in asyncio.
    Closing the generator, or leaving it to the garbage collector, drops the call.
    """

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[ItemT, None, None]:
        # Outside the generator, so that wrong arguments are told at once.
        return _pulled(self._portal, method(self._client, *args, **kwargs))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _pulled(portal: Portal, items: AsyncGenerator[ItemT, None]) -> Generator[ItemT, None, None]:
    # After an interrupted wait the last step may still be unwinding, and an asynchronous generator
    # must not be closed while it runs.
    turn = asyncio.Lock()

    async def step() -> tuple[ItemT] | None:
        async with turn:
            async for item in items:
                return (item,)
            return None

    async def close() -> None:
        async with turn:
            await items.aclose()

    try:
        while (found := portal.wait(step())) is not None:
            yield found[0]
    finally:
        # Not waited for: the garbage collector may run this on any thread, the portal's too.
        portal.post(close())


class Client:
    """Asks an imagemint server for images; safe for use by several threads at once.

    Close it, or use it in a `with` statement. It keeps one thread of its own. It does not survive a
    fork: make a new client in each child process.

    Args:
        target: "host:port", or several of them, comma-separated or in a sequence: calls then go to
            each in turn. `unix:PATH` works too.
        tls: how to encrypt; None for plain text.
        timeout_s: seconds that a call may take, retries included, if it names no other; None for
            no limit.
        metadata: pairs that go with every call, such as credentials.

    Raises:
        ValueError: `target` names no server.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        tls: Tls | None = None,
        timeout_s: float | None = 30.0,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        self._client = AsyncClient(target, tls=tls, timeout_s=timeout_s, metadata=metadata)
        self._portal = Portal(farewell=self._client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection. Calls under way raise ClientClosed. Closing twice is harmless."""
        self._portal.close()

    models = _blocking(AsyncClient.models)
    model = _blocking(AsyncClient.model)
    generate = _blocking(AsyncClient.generate)
    encoded = _blocking(AsyncClient.encoded)
    sheet = _blocking(AsyncClient.sheet)
    mint = _blocking(AsyncClient.mint)
    stream = _iterating(AsyncClient.stream)
    stream_encoded = _iterating(AsyncClient.stream_encoded)
