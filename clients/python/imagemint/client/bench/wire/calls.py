"""Calls that are made over and over: prepared once, then bytes in and bytes out."""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire.deadlines import Deadlines
from imagemint.client.bench.wire.dialing import Address, addresses
from imagemint.client.bench.wire.exchange import StreamExchange, UnaryExchange
from imagemint.client.bench.wire.headers import Fields, Head
from imagemint.client.bench.wire.link import Link
from imagemint.client.channel import Tls

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

# Units of the header `grpc-timeout`, finest first; it takes eight digits.
_UNITS = ((1e9, "n"), (1e6, "u"), (1e3, "m"), (1.0, "S"), (1 / 60, "M"), (1 / 3600, "H"))
_MOST_DIGITS = 10**8


class Wire:
    """Connections to every address of a server, which calls take in turn.

    Args:
        links: one for each address.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._deadlines: dict[float, Deadlines] = {}

    def unary(self, path: str, *, metadata: Metadata = (), timeout_s: float = 30.0) -> "Unary":
        """Prepares calls with one answer each.

        Args:
            path: `/package.Service/Method`.
            metadata: goes with every call; keys that end in `-bin` take bytes.
            timeout_s: how long a call may take; the server is told.
        """
        fields = [(b"grpc-timeout", _timeout(timeout_s)), *_encoded(metadata)]
        return Unary(self._turns(path, fields), self._deadlines_of(timeout_s))

    def streaming(
        self, path: str, *, metadata: Metadata = (), timeout_s: float = 30.0
    ) -> "Streaming":
        """Prepares calls with a stream of answers each.

        Args:
            path: `/package.Service/Method`.
            metadata: goes with every call; keys that end in `-bin` take bytes.
            timeout_s: how long each message may take; the server is told of no deadline.
        """
        return Streaming(self._turns(path, _encoded(metadata)), self._deadlines_of(timeout_s))

    def _turns(self, path: str, fields: Fields) -> "_Turns":
        heads = [_head(link.address, path, fields) for link in self._links]
        return _Turns(list(zip(self._links, heads, strict=True)))

    def _deadlines_of(self, timeout_s: float) -> Deadlines:
        if timeout_s not in self._deadlines:
            self._deadlines[timeout_s] = Deadlines(timeout_s)
        return self._deadlines[timeout_s]

    async def _connect(self) -> None:
        await asyncio.gather(*(link.connected() for link in self._links))
        if not any(link.ready for link in self._links):
            raise self._links[0].failure

    async def _close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._links))
        for deadlines in self._deadlines.values():
            deadlines.close()


@asynccontextmanager
async def open_wire(target: str | Sequence[str], tls: Tls | None = None) -> AsyncIterator[Wire]:
    """Connects to a server: one connection to each of its addresses.

    Connections that are lost, or that the server ends, are made anew for the calls that follow.
    Calls are never retried. Leaving the context ends those that run.

    Args:
        target: HOST:PORT, several of them, or `unix:PATH`; a name that resolves to several
            addresses stands for all of them.
        tls: how to encrypt; None for plain text.

    Raises:
        CallFailed: with the code UNAVAILABLE, there is nobody at any of the addresses.
        OSError: a TLS file cannot be read.
        ValueError: the target is none.
    """
    wire = Wire([Link(address) for address in await addresses(target, tls)])
    try:
        await wire._connect()  # noqa: SLF001 - of this module
        yield wire
    finally:
        await wire._close()  # noqa: SLF001 - of this module


class _Turns:
    """Which link takes the next call: those that are connected, in turn.

    Args:
        ways: links, and what a call sends ahead over each.
    """

    def __init__(self, ways: list[tuple[Link, Head]]) -> None:
        self._ways = ways
        self._last = 0

    def next_way(self) -> tuple[Link, Head]:
        """The link for the next call, and its head."""
        ways = self._ways
        if len(ways) == 1:
            return ways[0]
        for number in range(self._last + 1, self._last + 1 + len(ways)):
            way = ways[number % len(ways)]
            if way[0].ready:
                self._last = number % len(ways)
                return way
            way[0].connect()
        self._last = (self._last + 1) % len(ways)
        return ways[self._last]  # which will say what is wrong


class Unary:
    """Calls of one kind with one answer each; `Wire.unary` makes it."""

    def __init__(self, turns: _Turns, deadlines: Deadlines) -> None:
        self._turns = turns
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()

    async def __call__(self, request: bytes) -> bytes:
        """Makes one call.

        Args:
            request: the message, serialised.

        Returns:
            The answer, serialised.

        Raises:
            CallFailed: there is none; the code is that of gRPC.
        """
        link, head = self._turns.next_way()
        future: asyncio.Future[bytes] = self._loop.create_future()
        exchange = UnaryExchange(head, request, self._deadlines, future)
        link.submit(exchange)
        try:
            return await future
        except asyncio.CancelledError:
            exchange.give_up(CallFailed("CANCELLED"))
            raise


class Streaming:
    """Calls of one kind with a stream of answers each; `Wire.streaming` makes it."""

    def __init__(self, turns: _Turns, deadlines: Deadlines) -> None:
        self._turns = turns
        self._deadlines = deadlines

    async def __call__(self, request: bytes) -> AsyncGenerator[bytes, None]:
        """Makes one call; yields the messages, serialised. Closing the generator ends the call.

        Args:
            request: the message, serialised.

        Raises:
            CallFailed: the stream broke; the code is that of gRPC.
        """
        link, head = self._turns.next_way()
        exchange = StreamExchange(head, request, self._deadlines)
        link.submit(exchange)
        try:
            while (message := await exchange.next_message()) is not None:
                yield message
        finally:
            exchange.give_up(CallFailed("CANCELLED"))


def _head(address: Address, path: str, fields: Fields) -> Head:
    scheme = b"https" if address.encryption else b"http"
    return Head(
        [
            (b":method", b"POST"),
            (b":scheme", scheme),
            (b":path", path.encode("ascii")),
            (b":authority", address.authority.encode("ascii")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"imagemint-bench"),
            *fields,
        ]
    )


def _encoded(metadata: Metadata) -> Fields:
    fields = []
    for name, value in metadata:
        text = (
            base64.b64encode(value).rstrip(b"=")
            if isinstance(value, bytes)
            else value.encode("ascii")
        )
        fields.append((name.lower().encode("ascii"), text))
    return fields


def _timeout(timeout_s: float) -> bytes:
    """The value of `grpc-timeout`, rounded up in the finest unit that has the digits for it."""
    for per_second, unit in _UNITS:
        value = math.ceil(timeout_s * per_second)
        if value < _MOST_DIGITS:
            return b"%d%s" % (value, unit.encode())
    return b"%dH" % (_MOST_DIGITS - 1)
