"""Calls over the wire against gRPC's own server."""

import asyncio
import os
import ssl
from contextlib import aclosing

import grpc
import pytest
import trustme

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire import open_wire
from imagemint.client.bench.wire.calls import _timeout
from imagemint.client.channel import Tls

ECHO, MEET, FAIL, HANG, COUNT = (
    f"/test.Service/{name}" for name in ("Echo", "Meet", "Fail", "Hang", "Count")
)


async def failure(awaitable):
    """The CallFailed that it ends with."""
    with pytest.raises(CallFailed) as found:
        await awaitable
    return found.value


async def test_answers_are_those_of_their_requests(serving, servant):
    """Many at once, of every length around the limits of frames and windows."""
    sizes = (0, 1, 2**14 - 6, 2**14 - 5, 2**14 - 4, 2**16, 2**18 + 1)
    async with serving(servant) as (address, _), open_wire(address) as wire:
        call = wire.unary(ECHO)
        requests = [bytes([number % 256]) * sizes[number % 7] for number in range(70)]
        assert await asyncio.gather(*map(call, requests)) == requests


async def test_large_messages_pass_the_windows(serving, servant):
    """More than the window of a stream, in both directions, sequentially and together."""
    large = os.urandom(2**20) * 20
    limit = {"max_receive_message_length": 2**26, "max_send_message_length": 2**26}
    async with serving(servant, **limit) as (address, _), open_wire(address) as wire:
        call = wire.unary(ECHO)
        assert await call(large) == large
        assert await asyncio.gather(call(large), call(b"small"), call(large)) == [
            *(large, b"small", large)
        ]


async def test_metadata_and_timeout_are_sent(serving, servant):
    """With every call, those whose headers come from the table too."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        given = (("Authorization", "Bearer key"), ("some-bin", b"\0\xff"))
        call = wire.unary(ECHO, metadata=given, timeout_s=20.0)
        for _ in range(3):
            await call(b"")
    for metadata, remaining_s in zip(servant.metadata, servant.remaining_s, strict=True):
        found = dict(metadata)
        assert found["authorization"] == "Bearer key"
        assert found["some-bin"] == b"\0\xff"
        assert 0 < remaining_s <= 20.0


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each.value[0]])
async def test_status_is_that_of_the_server(serving, servant, code):
    """By its name, with the text as it was; only RESOURCE_EXHAUSTED is load that was shed."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        found = await failure(wire.unary(FAIL)(code.name.encode()))
    assert (found.code, found.message) == (code.name, "no — 100 %\n")
    assert found.shed == (code is grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_unknown_method_is_unimplemented(serving, servant):
    """A status without an opening."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        assert (await failure(wire.unary("/test.Service/No")(b""))).code == "UNIMPLEMENTED"


async def test_overdue_call_ends_on_both_sides(serving, servant):
    """Here as DEADLINE_EXCEEDED, there as a cancelled handler; others go on."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        found = await failure(wire.unary(HANG, timeout_s=0.05)(b""))
        await servant.cancelled.wait()
        assert await wire.unary(ECHO)(b"after") == b"after"
    assert found.code == "DEADLINE_EXCEEDED"


async def test_cancelled_caller_cancels_the_call(serving, servant):
    """The server is told."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        calling = asyncio.create_task(wire.unary(HANG)(b""))
        await servant.started.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await servant.cancelled.wait()


async def test_stream_brings_every_message(serving, servant):
    """Empty, shared and spanning frames, beyond the window of the stream, in order."""
    sizes = [0, 1, 0, 5, 2**14, 3, 2**20, *[2**21] * 10, 7]
    async with serving(servant) as (address, _), open_wire(address) as wire:
        chunks = wire.streaming(COUNT)(" ".join(map(str, sizes)).encode())
        assert [len(message) async for message in chunks] == sizes


async def test_reader_who_lags_holds_up_the_server(serving, servant):
    """No more than the window is sent ahead of who reads, and all of it arrives in the end."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        echo = wire.unary(ECHO)
        async with aclosing(wire.streaming(COUNT)(b"1000000 " * 40)) as chunks:
            sizes = [len(await anext(chunks))]
            for _ in range(200):
                await echo(b"")
            assert servant.sent < 30  # 16 MiB, and what gRPC holds by itself
            sizes += [len(message) async for message in chunks]
    assert sizes == [1_000_000] * 40


async def test_failing_stream_fails_after_its_messages(serving, servant):
    """What came is not lost."""
    async with (
        serving(servant) as (address, _),
        open_wire(address) as wire,
        aclosing(wire.streaming(COUNT)(b"1 2 fail")) as chunks,
    ):
        assert [len(await anext(chunks)), len(await anext(chunks))] == [1, 2]
        found = await failure(anext(chunks))
    assert (found.code, found.message) == ("DATA_LOSS", "half")


async def test_stream_left_early_is_cancelled(serving, servant):
    """The server sees it end."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        async with aclosing(wire.streaming(COUNT)(b"1 hang")) as chunks:
            assert len(await anext(chunks)) == 1
        await servant.cancelled.wait()


async def test_overdue_message_ends_the_stream(serving, servant):
    """The time is that of each message."""
    async with serving(servant) as (address, _), open_wire(address) as wire:
        async with aclosing(wire.streaming(COUNT, timeout_s=0.05)(b"1 hang")) as chunks:
            assert len(await anext(chunks)) == 1
            assert (await failure(anext(chunks))).code == "DEADLINE_EXCEEDED"
        await servant.cancelled.wait()


async def test_concurrent_streams_are_limited_by_the_server(serving, servant):
    """The rest waits here, and none is refused."""
    async with (
        serving(servant, max_concurrent_streams=3) as (address, _),
        open_wire(address) as wire,
    ):
        call = wire.unary(MEET)
        requests = [str(number).encode() for number in range(50)]
        assert await asyncio.gather(*map(call, requests)) == requests
    assert servant.most <= 3


async def test_waiting_call_can_be_overdue_or_cancelled(serving, servant):
    """Without ever being sent; who waits behind it is not held up."""
    async with (
        serving(servant, max_concurrent_streams=1) as (address, _),
        open_wire(address) as wire,
    ):
        hanging = asyncio.create_task(wire.unary(HANG)(b""))
        await servant.started.wait()
        assert (await failure(wire.unary(ECHO, timeout_s=0.02)(b"1"))).code == ("DEADLINE_EXCEEDED")
        cancelled = asyncio.create_task(wire.unary(ECHO)(b"2"))
        last = asyncio.create_task(wire.unary(ECHO)(b"3"))
        await asyncio.sleep(0)
        cancelled.cancel()
        hanging.cancel()
        assert await last == b"3"
    assert len(servant.metadata) == 1


async def test_old_connections_are_replaced(serving, servant):
    """A server that ends them by age loses no call."""
    async with (
        serving(servant, max_connection_age_ms=50) as (address, _),
        open_wire(address) as wire,
    ):
        call = wire.unary(ECHO)
        while len(servant.peers) < 3:
            assert await asyncio.gather(*map(call, (b"1", b"2"))) == [b"1", b"2"]


async def test_server_that_goes_away_is_unavailable(serving, servant):
    """Who runs, and who comes after; once it is back, calls are answered."""
    async with serving(servant) as (address, server), open_wire(address) as wire:
        hanging = asyncio.create_task(wire.unary(HANG)(b""))
        await servant.started.wait()
        await server.stop(0)
        assert (await failure(hanging)).code == "UNAVAILABLE"
        assert (await failure(wire.unary(ECHO)(b""))).code == "UNAVAILABLE"
        async with serving(servant, bind=address):
            call = wire.unary(ECHO)
            wire._links[0]._not_before = 0.0  # the pause is over
            assert await call(b"back") == b"back"


async def test_draining_server_finishes_what_runs(serving, servant):
    """A stream that has begun comes to its end."""
    async with serving(servant) as (address, server), open_wire(address) as wire:
        async with aclosing(wire.streaming(COUNT)(b"1 2 3")) as chunks:
            assert len(await anext(chunks)) == 1
            stopping = asyncio.create_task(server.stop(10))
            assert [len(message) async for message in chunks] == [2, 3]
        await stopping


async def test_nobody_there_is_unavailable():
    """At once, with the address."""
    with pytest.raises(CallFailed, match=r"UNAVAILABLE: 127\.0\.0\.1:1: "):
        async with open_wire("127.0.0.1:1"):
            pass
    with pytest.raises(CallFailed, match=r"UNAVAILABLE: nowhere\.invalid: "):
        async with open_wire("nowhere.invalid:1"):
            pass
    with pytest.raises(CallFailed, match="UNAVAILABLE: xds:"):
        async with open_wire("xds:///there"):
            pass


async def test_wire_that_closes_ends_its_calls(serving, servant):
    """Nobody waits for ever."""
    async with serving(servant) as (address, _):
        async with open_wire(address) as wire:
            hanging = asyncio.create_task(wire.unary(HANG)(b""))
            await servant.started.wait()
        assert (await failure(hanging)).code == "UNAVAILABLE"
        assert (await failure(wire.unary(ECHO)(b""))).code == "CANCELLED"


async def test_addresses_take_turns(serving, make_servant):
    """A load is spread over all of them; one that is dead is left out."""
    one, other = make_servant(), make_servant()
    async with (
        serving(one) as (here, _),
        serving(other) as (there, _),
        open_wire(f"{here},{there},127.0.0.1:1") as wire,
    ):
        call = wire.unary(ECHO)
        for _ in range(6):
            await call(b"")
    assert (len(one.metadata), len(other.metadata)) == (3, 3)


@pytest.mark.parametrize("form", ["dns:///{}", "ipv4:{}", "dns:{}"])
async def test_uris_of_grpc_are_understood(serving, servant, form):
    """Those that name hosts."""
    async with serving(servant) as (address, _), open_wire(form.format(address)) as wire:
        assert await wire.unary(ECHO)(b"1") == b"1"


async def test_unix_sockets_are_addresses(serving, servant, tmp_path):
    """As `imagemint serve` may listen on one."""
    target = f"unix:{tmp_path}/socket"
    async with serving(servant, bind=target), open_wire(target) as wire:
        assert await wire.unary(ECHO)(b"1") == b"1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority, with a server's and a client's certificate, in files."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    client = authority.issue_cert("client")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.private_key_pem.write_to_path(folder / "key.pem")
    client.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    pair = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
    return folder, pair, authority.cert_pem.bytes()


async def test_tls_is_spoken(serving, servant, authority):
    """The certificate is that of the name given, or nothing is sent."""
    folder, pair, _ = authority
    credentials = grpc.ssl_server_credentials([pair])
    async with serving(servant, credentials=credentials) as (address, _):
        tls = Tls(root_certificates_path=folder / "ca.pem", server_name="localhost")
        async with open_wire(address, tls) as wire:
            large = os.urandom(2**20)
            assert await wire.unary(ECHO)(large) == large
        for wrong in (Tls(server_name="localhost"), Tls(folder / "ca.pem", server_name="other")):
            with pytest.raises(CallFailed, match=r"UNAVAILABLE.*certificate verify failed"):
                async with open_wire(address, wrong):
                    pass


async def test_client_certificate_is_shown(serving, servant, authority):
    """To a server that wants one; without it there is no connection."""
    folder, pair, root = authority
    credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=True)
    async with serving(servant, credentials=credentials) as (address, _):
        known = Tls(folder / "ca.pem", folder / "key.pem", folder / "chain.pem", "localhost")
        async with open_wire(address, known) as wire:
            assert await wire.unary(ECHO)(b"1") == b"1"
        with pytest.raises(CallFailed, match="UNAVAILABLE"):
            async with open_wire(address, Tls(folder / "ca.pem", server_name="localhost")):
                pass


async def test_server_without_http2_is_told(authority, tmp_path):
    """By what TLS agreed on."""
    folder, (key, chain), _ = authority
    (tmp_path / "both.pem").write_bytes(key + chain)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CallFailed, match="does not offer HTTP/2"):
            async with open_wire(f"localhost:{port}", Tls(folder / "ca.pem")):
                pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(30.0, b"30000000u"), (0.05, b"50000000n"), (1e-10, b"1n"), (86400.0, b"86400000m")],
)
def test_timeout_keeps_its_digits(seconds, text):
    """Eight of them, in the finest unit that has room; never rounded to nothing."""
    assert _timeout(seconds) == text
    assert len(_timeout(1e30)) <= 9
