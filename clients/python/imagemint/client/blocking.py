"""The blocking client: each method of `AsyncClient`, run on a portal.

`_make_blocking` and `_make_iterator` wrap the methods. They keep signatures, types and
docstrings, so nothing is written twice.
"""

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from imagemint.client.api import AsyncClient
from imagemint.client.channel import MetadataLike, Tls
from imagemint.client.portal import Errands, Portal
from imagemint.client.translation import Grouped, Sources, group_sources, prepare_sources

P = ParamSpec("P")
ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


def _make_blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, ResultT]],
) -> Callable[Concatenate["Client", P], ResultT]:
    """Returns `method` for Client, which waits for the result."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        return self._portal.wait(method(self._client, *args, **kwargs))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _make_iterator(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[ItemT, None]],
) -> Callable[Concatenate["Client", P], Generator[ItemT, None, None]]:
    """Returns `method` for Client as a generator that requests each item when it is needed.

    It does not prefetch, so a slow consumer slows the server down as in asyncio. If the generator
    is closed or garbage-collected, the call is cancelled.
    """

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[ItemT, None, None]:
        # Outside the generator, so that invalid arguments raise at once.
        return _iterate(self._portal, method(self._client, *args, **kwargs))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _make_translating(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, ResultT]],
) -> Callable[Concatenate["Client", P], ResultT]:
    """Returns `method` for Client, as `_make_blocking`; the calling thread reads the sources."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        positional, keywords = _replace_sources(prepare_sources, args, kwargs)
        return self._portal.wait(method(self._client, *positional, **keywords))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _make_translations(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[ItemT, None]],
) -> Callable[Concatenate["Client", P], Generator[ItemT, None, None]]:
    """Returns `method` for Client, as `_make_iterator`; the waiting thread reads the sources."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[ItemT, None, None]:
        errands = Errands()

        def group(sources: Sources) -> Grouped:
            groups = group_sources(sources)
            if isinstance(groups, Iterator):
                return Grouped(_read_elsewhere(groups, errands))
            return Grouped(groups)

        positional, keywords = _replace_sources(group, args, kwargs)
        return _iterate(self._portal, method(self._client, *positional, **keywords), errands)

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _make_deriving(
    method: Callable[Concatenate[AsyncClient, P], AsyncClient],
) -> Callable[Concatenate["Client", P], "Client"]:
    """Returns `method` for Client, which returns a client with the same portal."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> "Client":
        derived = object.__new__(type(self))
        derived._client = method(self._client, *args, **kwargs)
        derived._portal = self._portal
        return derived

    call.__qualname__ = f"Client.{method.__name__}"
    return call


def _replace_sources(
    function: Callable[[Any], object], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Returns the arguments (model, sources, ...) of a call with `function` of the sources."""
    keywords = dict(kwargs)
    if "sources" in keywords:
        keywords["sources"] = function(keywords["sources"])
    elif len(args) > 1:
        args = (args[0], function(args[1]), *args[2:])
    return args, keywords


async def _read_elsewhere(items: Iterator[ItemT], errands: Errands) -> AsyncGenerator[ItemT, None]:
    """Yields items that the thread reads which waits for the portal."""
    while (
        found := await errands.call(lambda: next(((item,) for item in items), None))
    ) is not None:
        yield found[0]


def _iterate(
    portal: Portal, items: AsyncGenerator[ItemT, None], errands: Errands | None = None
) -> Generator[ItemT, None, None]:
    # After an interrupted wait the last step may still be unwinding, and an asynchronous generator
    # must not be closed while it runs.
    turn = asyncio.Lock()

    async def read_next() -> tuple[ItemT] | None:
        async with turn:
            async for item in items:
                return (item,)
            return None

    async def close() -> None:
        async with turn:
            await items.aclose()

    try:
        while (found := portal.wait(read_next(), errands)) is not None:
            yield found[0]
    finally:
        # Without waiting: the garbage collector may run this on any thread, even the portal's.
        portal.post(close())


class Client:
    """A blocking client of an imagemint server. It is thread-safe.

    Close it, or use it in a `with` statement. It has one thread of its own. It does not work after
    a fork: create a new client in each child process.

    Args:
        target: "host:port", or several, separated by commas or in a sequence; calls use them in
            turn. `unix:PATH` works too.
        tls: encryption settings; None for plain text.
        timeout_s: default time limit of a call in seconds, including retries; None for no limit.
        api_key: API key, sent with every call as `authorization: Bearer KEY`.
        metadata: pairs or a mapping to send with every call. Values are printable ASCII, or bytes
            if the name ends with `-bin`.

    Raises:
        ValueError: `target` names no server, `timeout_s` is not above 0, gRPC cannot send the key
            or `metadata`, or both hold `authorization`.
        TypeError: an argument has the wrong type.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        tls: Tls | None = None,
        timeout_s: float | None = 30.0,
        api_key: str | None = None,
        metadata: MetadataLike = (),
    ) -> None:
        self._client = AsyncClient(
            target, tls=tls, timeout_s=timeout_s, api_key=api_key, metadata=metadata
        )
        self._portal = Portal(farewell=self._client.close)

    def __repr__(self) -> str:
        return repr(self._client).replace(AsyncClient.__name__, type(self).__name__)

    def __getstate__(self) -> object:
        """Refuses: a connection belongs to its process, and pickles must not hold credentials."""
        raise TypeError(f"{type(self).__name__} cannot be copied or pickled; create another one")

    def __enter__(self) -> Self:
        self._portal.check()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Active calls raise ClientClosed. You may close twice."""
        self._portal.close()

    with_options = _make_deriving(AsyncClient.with_options)
    models = _make_blocking(AsyncClient.models)
    model = _make_blocking(AsyncClient.model)
    generate = _make_blocking(AsyncClient.generate)
    encoded = _make_blocking(AsyncClient.encoded)
    sheet = _make_blocking(AsyncClient.sheet)
    translate = _make_translating(AsyncClient.translate)
    translate_encoded = _make_translating(AsyncClient.translate_encoded)
    translate_many = _make_translations(AsyncClient.translate_many)
    translate_stream = _make_translations(AsyncClient.translate_stream)
    mint = _make_blocking(AsyncClient.mint)
    animate = _make_blocking(AsyncClient.animate)
    interpolate = _make_iterator(AsyncClient.interpolate)
    stream = _make_iterator(AsyncClient.stream)
    stream_encoded = _make_iterator(AsyncClient.stream_encoded)
