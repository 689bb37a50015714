"""Tests of a connection over several names: their addresses may change, or not be there yet."""

import asyncio
import contextlib
import gc
import socket
import threading
from types import SimpleNamespace

import pytest
from forwarder import run_forwarder

from imagemint import client
from imagemint.client import AsyncClient, api, channel, connection, forks

WAIT_S = 60
# An address of this machine at which no test serves.
NOBODY = "127.0.0.2"


class Names:
    """Name resolution under the control of a test.

    A name without an address does not resolve. While `held` is clear, every lookup waits.
    """

    def __init__(self, monkeypatch):
        self.addresses = {}
        self.lookups = []
        self.began = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self._resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, host, *arguments, **options):
        """Resolves names of the domain `test`, and leaves other hosts to the machine."""
        if not str(host).endswith(".test"):
            return self._resolve(host, *arguments, **options)
        self.lookups.append(host)
        self.began.set()
        assert self.held.wait(WAIT_S)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._resolve(self.addresses[host], *arguments, **options)


@pytest.fixture
def names(monkeypatch):
    """Names whose addresses the test sets."""
    made = Names(monkeypatch)
    yield made
    made.held.set()


@pytest.fixture
def pair(serve, make_mint, names):
    """Two servers by the names a.test and b.test, and the target of both."""
    mints = [make_mint(), make_mint()]
    ports = [serve(mint).rpartition(":")[2] for mint in mints]
    names.addresses |= {"a.test": "127.0.0.1", "b.test": "127.0.0.1"}
    return mints, f"a.test:{ports[0]},b.test:{ports[1]}"


async def test_servers_that_moved_are_found(pair, names, monkeypatch):
    """After a call that reached no server, the next call looks the names up again."""
    monkeypatch.setattr(connection, "_SHORTEST_RESOLVE_INTERVAL_S", 0)
    _, target = pair
    names.addresses = dict.fromkeys(names.addresses, NOBODY)
    async with AsyncClient(target) as asynchronous:
        with pytest.raises(client.Unavailable, match="cannot reach"):
            await asynchronous.generate("tiny")
        names.addresses = dict.fromkeys(names.addresses, "127.0.0.1")
        assert len(await asynchronous.generate("tiny")) == 1


async def test_lost_server_is_found_while_another_serves(pair, names, monkeypatch):
    """Names are looked up again from time to time, so that calls are spread over all servers."""
    monkeypatch.setattr(connection, "_RESOLVE_INTERVAL_S", 0)
    mints, target = pair
    names.addresses["b.test"] = NOBODY
    async with AsyncClient(target) as asynchronous, asyncio.timeout(WAIT_S):
        await asynchronous.generate("tiny")
        names.addresses["b.test"] = "127.0.0.1"
        while not mints[1].requests:
            await asynchronous.generate("tiny")


async def test_stream_resumes_at_a_new_address(pair, names, fault, monkeypatch):
    """A stream whose server has moved continues there, with the images that are missing."""
    monkeypatch.setattr(connection, "_SHORTEST_RESOLVE_INTERVAL_S", 0)
    (mint, other), target = pair
    names.addresses["b.test"] = NOBODY
    mint.breaks.append((2, fault(client.errors.grpc.StatusCode.UNAVAILABLE)))
    async with AsyncClient(target) as asynchronous:
        indices = []
        async for chunk in asynchronous.stream("tiny", 12):
            indices += [*chunk.index]
            # From now on only b.test has a server, and calls to a.test find none.
            asynchronous._lifetime.unreachable_at = float("inf")
            names.addresses = {"a.test": NOBODY, "b.test": "127.0.0.1"}
    assert indices == [*range(12)]
    assert [request.images.first_index for request in other.requests] == [8]


async def test_call_outlives_a_change_of_addresses(serve, make_mint, names, monkeypatch):
    """A call that still connects is answered by its server, although others use a new channel."""
    monkeypatch.setattr(connection, "_RESOLVE_INTERVAL_S", 0)
    slow, other = make_mint(), make_mint()
    names.addresses["a.test"] = "127.0.0.1"
    async with run_forwarder(serve(slow)) as forwarder, asyncio.timeout(WAIT_S):
        forwarder.flows.clear()
        target = f"a.test:{forwarder.port},b.test:{serve(other).rpartition(':')[2]}"
        async with AsyncClient(target) as asynchronous:
            first = asyncio.ensure_future(anext(asynchronous.stream("tiny", 12)))
            await forwarder.connected.wait()
            names.addresses = {"b.test": "127.0.0.1"}
            while not other.requests:
                with contextlib.suppress(client.DeadlineExceeded):
                    await asynchronous.generate("tiny", timeout_s=0.1)
            gc.collect()
            forwarder.flows.set()
            assert len(await first) == 4
    assert len(slow.requests) == 1


async def test_calls_through_a_helper_follow_a_change_of_addresses(pair, names, monkeypatch):
    """In a forked process, a call and a stream that are active continue at the new address."""
    monkeypatch.setattr(forks, "is_grpc_broken", lambda: True)
    monkeypatch.setattr(connection, "_SHORTEST_RESOLVE_INTERVAL_S", 0)
    monkeypatch.setattr(connection, "_RESOLVE_WAIT_S", WAIT_S)
    (mint, other), target = pair
    names.addresses["b.test"] = NOBODY
    async with AsyncClient(target, timeout_s=None) as asynchronous, asyncio.timeout(WAIT_S):
        chunks = asynchronous.stream("tiny", 12)
        indices = [*(await anext(chunks)).index]
        mint.silent = True
        mint.asked.clear()
        waiting = asyncio.ensure_future(asynchronous.generate("tiny", 2))
        assert await asyncio.to_thread(mint.asked.wait, WAIT_S)
        asynchronous._lifetime.unreachable_at = float("inf")
        names.addresses = {"a.test": NOBODY, "b.test": "127.0.0.1"}
        assert len(await asynchronous.generate("tiny")) == 1
        assert len(await waiting) == 2
        async for chunk in chunks:
            indices += [*chunk.index]
    assert indices == [*range(12)]
    assert other.requests


async def test_name_that_does_not_resolve_is_left_out(pair, names):
    """The name of a server that is down has often no address. The other servers are used."""
    mints, target = pair
    del names.addresses["a.test"]
    async with AsyncClient(target) as asynchronous:
        await asynchronous.generate("tiny")
    assert [len(mint.requests) for mint in mints] == [0, 1]


async def test_names_that_do_not_resolve_are_an_error(pair, names):
    """If no name resolves, the error has one of them; a later call tries again."""
    _, target = pair
    known, names.addresses = names.addresses, {}
    async with AsyncClient(target) as asynchronous:
        with pytest.raises(client.Unavailable, match=r"a\.test") as caught:
            await asynchronous.generate("tiny")
        assert caught.value.reason == "UNRESOLVED"
        names.addresses = known
        assert len(await asynchronous.generate("tiny")) == 1


async def test_concurrent_calls_open_one_channel(pair, names):
    """The first calls wait for the same lookups."""
    _, target = pair
    async with AsyncClient(target) as asynchronous:
        await asyncio.gather(*(asynchronous.generate("tiny") for _ in range(8)))
    assert sorted(names.lookups) == ["a.test", "b.test"]


async def test_deadline_covers_the_lookup(pair, names):
    """A call whose names are not resolved in time fails, and does not wait for them."""
    _, target = pair
    names.held.clear()
    async with AsyncClient(target) as asynchronous:
        with pytest.raises(client.DeadlineExceeded, match=r"a\.test.*not resolved within 0\.05 s"):
            await asynchronous.generate("tiny", timeout_s=0.05)
        names.held.set()
        assert len(await asynchronous.generate("tiny")) == 1


async def test_deadline_of_a_call_is_what_the_lookup_leaves(address, mint, monkeypatch):
    """The server is told the rest of the time, not all of it."""
    times = iter([0, 0, 40])
    monkeypatch.setattr(api, "time", SimpleNamespace(monotonic=lambda: next(times)))
    async with AsyncClient(address) as asynchronous:
        await asynchronous.generate("tiny", timeout_s=WAIT_S)
    assert mint.deadlines_s[0] < WAIT_S - 30  # gRPC rounds up


async def test_cancelled_call_leaves_the_lookup_to_others(pair, names):
    """A call that is cancelled during the lookup does not fail those that wait for the same."""
    _, target = pair
    names.held.clear()
    async with AsyncClient(target) as asynchronous:
        calls = [asyncio.ensure_future(asynchronous.generate("tiny")) for _ in range(2)]
        await asyncio.to_thread(names.began.wait, WAIT_S)
        calls[0].cancel()
        names.held.set()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        assert len(await calls[1]) == 1


async def test_closing_during_the_lookup_ends_the_call(pair, names):
    """The call raises ClientClosed at once."""
    _, target = pair
    names.held.clear()
    asynchronous = AsyncClient(target)
    call = asyncio.ensure_future(asynchronous.generate("tiny"))
    await asyncio.to_thread(names.began.wait, WAIT_S)
    await asynchronous.close()
    with pytest.raises(client.ClientClosed):
        await call
    names.held.set()


async def test_connection_without_answers_is_closed(address, monkeypatch):
    """A server that vanished without a word is found by pings, before the deadline of the call."""
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 200)
    monkeypatch.setattr(channel, "KEEPALIVE_TIMEOUT_MS", 1_000)
    async with run_forwarder(address) as forwarder:
        target = f"127.0.0.1:{forwarder.port}"
        async with AsyncClient(target, timeout_s=WAIT_S) as asynchronous:
            await asynchronous.generate("tiny")
            forwarder.flows.clear()
            forwarder.server.close()
            with pytest.raises(client.Unavailable):
                await asynchronous.generate("tiny")
