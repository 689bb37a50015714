"""One connection against a peer that sends what gRPC's own server would not."""

import asyncio
import struct
from contextlib import aclosing

import pytest

from imagemint.client.bench.target import CallFailed
from imagemint.client.bench.wire import connection, frames, open_wire
from imagemint.client.bench.wire.frames import ErrorCode, Setting


@pytest.fixture
async def met(peers):
    """A wire and the peer at its other end."""
    address, come = peers
    opening = open_wire(address)
    entering = asyncio.create_task(opening.__aenter__())
    peer = await come.get()
    await peer.greet()
    yield await entering, peer
    await opening.__aexit__(None, None, None)


@pytest.fixture
def calling(met):
    """Starts a call; gives its task, the peer and its stream there."""
    wire, peer = met

    async def call(request=b"request", **options):
        task = asyncio.create_task(wire.unary("/a.B/C", **options)(request))
        stream, _ = await peer.request()
        return task, peer, stream

    return call


async def _read(peer):
    """Waits until all that was sent has been read."""
    peer.send(frames.head(8, frames.PING) + bytes(8))
    await peer.frame(frames.PING)


async def failure(task):
    """The CallFailed that it ends with."""
    with pytest.raises(CallFailed) as found:
        await task
    return found.value


async def test_request_is_grpc(met):
    """What the protocol asks for, and nothing is said twice."""
    wire, peer = met
    call = wire.unary("/a.B/C", metadata=[("key", "value")], timeout_s=2.5)
    lengths = []
    for _ in range(3):
        task = asyncio.create_task(call(b"request"))
        head = await peer.frame(frames.HEADERS)
        lengths.append(len(head.payload))
        fields = dict(peer.decoder.decode(head.payload))
        data = await peer.frame(frames.DATA)
        assert (data.payload, data.flags) == (b"\0\0\0\0\7request", frames.END_STREAM)
        peer.send(peer.answer(head.stream, b"answer"))
        assert await task == b"answer"
    assert fields.pop(":authority").startswith("127.0.0.1:")
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/a.B/C",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "imagemint-bench",
        "grpc-timeout": "2500000u",
        "key": "value",
    }
    assert lengths[1] == lengths[2] == len(fields) + 1


async def test_first_calls_wait_for_settings(peers):
    """So that no limit of the peer's is broken before it is known."""
    address, come = peers
    opening = open_wire(address)
    entering = asyncio.create_task(opening.__aenter__())
    peer = await come.get()
    await peer.greet({Setting.MAX_CONCURRENT_STREAMS: 1, Setting.HEADER_TABLE_SIZE: 0})
    wire = await entering
    call = wire.unary("/a.B/C")
    first, second = (asyncio.create_task(call(each)) for each in (b"1", b"2"))
    peer.decoder.max_allowed_table_size = 0
    stream, _ = await peer.request()
    peer.send(frames.head(8, frames.PING) + b"12345678")
    assert (await peer.frame(frames.HEADERS, frames.PING)).payload == b"12345678"
    peer.send(peer.answer(stream, b"one"))
    stream, _ = await peer.request()
    peer.send(peer.answer(stream, b"two"))
    assert [await first, await second] == [b"one", b"two"]
    await opening.__aexit__(None, None, None)


async def test_unknown_frames_are_ignored(calling):
    """And priorities, which are history."""
    task, peer, stream = await calling()
    peer.send(
        frames.head(3, 0x99, 0xFF, 5) + b"abc", frames.head(5, frames.PRIORITY, 0, 1) + bytes(5)
    )
    peer.send(peer.answer(stream, b"answer"))
    assert await task == b"answer"


async def test_early_hints_come_before_the_answer(calling):
    """An informational status says nothing of the call."""
    task, peer, stream = await calling()
    peer.send(peer.headers(stream, [(":status", "103")]), peer.answer(stream, b"answer"))
    assert await task == b"answer"


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 11])
async def test_message_may_span_data_frames(calling, cut):
    """Cut within the prefix, after it, within the message; empty frames between."""
    task, peer, stream = await calling()
    whole = b"\0\0\0\0\6answer"
    peer.send(peer.opening(stream), peer.data(stream, whole[:cut]), peer.data(stream, b""))
    peer.send(
        peer.data(stream, whole[cut:]), peer.headers(stream, [("grpc-status", "0")], end=True)
    )
    assert await task == b"answer"


async def test_messages_may_share_a_data_frame(met):
    """Of a stream; the rest of one is kept for the next frame."""
    wire, peer = met
    async with aclosing(wire.streaming("/a.B/C")(b"")) as messages:
        first = asyncio.create_task(anext(messages))
        stream, fields = await peer.request()
        assert "grpc-timeout" not in fields
        peer.send(peer.opening(stream), peer.data(stream, b"\0\0\0\0\1a\0\0\0\0\0\0\0\0\0\2b"))
        assert [await first, await anext(messages)] == [b"a", b""]
        peer.send(peer.data(stream, b"c"), peer.headers(stream, [("grpc-status", "0")], end=True))
        assert [message async for message in messages] == [b"bc"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\1\0\0\0\1a", "a compressed message"),
        (b"\0\0\0\0\1a\0\0\0\0\1b", "more than one message"),
        (b"\0\0\0\0\2a", "ends within a message"),
        (b"", "success without a message"),
    ],
)
async def test_answers_that_are_none_are_internal(calling, data, message):
    """Although the server says that all is well; the connection goes on."""
    task, peer, stream = await calling()
    peer.send(peer.opening(stream), peer.data(stream, data))
    peer.send(peer.headers(stream, [("grpc-status", "0")], end=True))
    found = await failure(task)
    assert found.code == "INTERNAL"
    assert message in found.message
    task, peer, stream = await calling()
    peer.send(peer.answer(stream, b"fine"))
    assert await task == b"fine"


async def test_message_beyond_the_limit_is_not_awaited(calling):
    """Its length is enough to know, and no load was shed."""
    task, peer, stream = await calling()
    peer.send(peer.opening(stream), peer.data(stream, b"\0\xff\xff\xff\xff"))
    found = await failure(task)
    assert (found.code, found.shed) == ("RESOURCE_EXHAUSTED", False)
    assert (await peer.frame(frames.RST_STREAM)).stream == stream


async def test_other_servers_are_unknown(calling):
    """A proxy's page: its status and the beginning of its text."""
    task, peer, stream = await calling()
    peer.send(peer.headers(stream, [(":status", "502"), ("content-type", "text/html")]))
    peer.send(peer.data(stream, b"<h1>Bad ", end=False), peer.data(stream, b"Gateway", end=True))
    found = await failure(task)
    assert (found.code, found.message) == ("UNKNOWN", "HTTP status 502: <h1>Bad Gateway")


async def test_answer_without_trailers_is_unknown(calling):
    """Whatever it held."""
    task, peer, stream = await calling()
    peer.send(peer.opening(stream), peer.data(stream, b"\0\0\0\0\1a", end=True))
    assert str(await failure(task)) == "UNKNOWN: no grpc-status"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (ErrorCode.CANCEL, "CANCELLED"),
        (ErrorCode.ENHANCE_YOUR_CALM, "RESOURCE_EXHAUSTED"),
        (ErrorCode.INADEQUATE_SECURITY, "PERMISSION_DENIED"),
        (ErrorCode.INTERNAL_ERROR, "INTERNAL"),
        (0x1234, "INTERNAL"),
    ],
)
async def test_resets_are_those_of_grpc(calling, code, name):
    """Each code by the table of the protocol."""
    task, peer, stream = await calling()
    peer.send(frames.head(4, frames.RST_STREAM, 0, stream) + code.to_bytes(4, "big"))
    assert (await failure(task)).code == name


async def test_refused_call_is_sent_again(calling):
    """As gRPC does: a server that refuses has not looked at the request."""
    task, peer, stream = await calling()
    for _ in range(2):
        code = ErrorCode.REFUSED_STREAM.to_bytes(4, "big")
        peer.send(frames.head(4, frames.RST_STREAM, 0, stream) + code)
        again, _ = await peer.request()
        assert again > stream
        stream = again
    peer.send(peer.answer(stream, b"at last"))
    assert await task == b"at last"


async def test_farewell_lets_finish_what_was_taken(met, peers):
    """What was not taken is sent again, on a new connection, as are new calls."""
    wire, peer = met
    call = wire.unary("/a.B/C")
    one, other = asyncio.create_task(call(b"1")), asyncio.create_task(call(b"2"))
    (taken, _), (late, _) = await peer.request(), await peer.request()
    assert late > taken
    peer.send(frames.head(11, frames.GOAWAY) + struct.pack(">II", taken, 0) + b"bye")
    _, come = peers
    second = await come.get()
    await second.greet()
    stream, _ = await second.request()
    second.send(second.answer(stream, b"two"))
    assert await other == b"two"
    after = asyncio.create_task(call(b"3"))
    stream, _ = await second.request()
    second.send(second.answer(stream, b"three"))
    assert await after == b"three"
    peer.send(peer.answer(taken, b"one"))
    assert await one == b"one"
    with pytest.raises(EOFError):  # and the old connection is closed
        await peer.frame(frames.HEADERS)


async def test_stream_ids_run_out(met, peers, monkeypatch):
    """The next call is the first of a new connection."""
    wire, peer = met
    monkeypatch.setattr(connection, "_LAST_STREAM", 1)
    call = wire.unary("/a.B/C")
    one, other = asyncio.create_task(call(b"1")), asyncio.create_task(call(b"2"))
    stream, _ = await peer.request()
    peer.send(peer.answer(stream, b"one"))
    _, come = peers
    second = await come.get()
    await second.greet()
    stream, _ = await second.request()
    second.send(second.answer(stream, b"two"))
    assert [await one, await other] == [b"one", b"two"]


async def test_windows_of_the_server_are_kept(met):
    """Of the connection and of each stream; settings move the latter, below zero too."""
    wire, peer = met
    call = wire.unary("/a.B/C")
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}))
    await _read(peer)
    task = asyncio.create_task(call(b"x" * 95))
    assert len((await peer.frame(frames.DATA)).payload) == 10
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 5}))
    peer.send(frames.window_update(1, 6))
    assert len((await peer.frame(frames.DATA)).payload) == 1
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**20}))
    data = await peer.frame(frames.DATA)
    assert (len(data.payload), data.flags) == (89, frames.END_STREAM)
    peer.send(peer.answer(1, b"1"))
    assert await task == b"1"
    task = asyncio.create_task(call(b"x" * 95))
    await peer.frame(frames.DATA)
    peer.send(peer.answer(3, b"1"))
    assert await task == b"1"
    # 200 bytes of the connection's window are gone, and no stream brings them back.
    task = asyncio.create_task(call(b"y" * 2**17))
    sizes = [len((await peer.frame(frames.DATA)).payload) for _ in range(4)]
    assert sizes == [2**14, 2**14, 2**14, 2**14 - 1 - 200]
    peer.send(frames.window_update(0, 2**20))
    while not (await peer.frame(frames.DATA)).flags & frames.END_STREAM:
        pass
    peer.send(peer.answer(5, b"2"))
    assert await task == b"2"


async def test_early_answer_ends_the_upload(met):
    """The rest of the request is not sent, and the stream is closed."""
    wire, peer = met
    task = asyncio.create_task(wire.unary("/a.B/C")(b"x" * 2**17))
    stream = (await peer.frame(frames.HEADERS)).stream
    peer.send(peer.headers(stream, [(":status", "200"), ("grpc-status", "8")], end=True))
    assert (await failure(task)).code == "RESOURCE_EXHAUSTED"
    assert (await peer.frame(frames.RST_STREAM)).stream == stream


async def test_long_headers_are_continued(met):
    """Metadata beyond a frame."""
    wire, peer = met
    long = "v" * 2**15
    task = asyncio.create_task(wire.unary("/a.B/C", metadata=[("key", long)])(b""))
    stream, fields = await peer.request()
    assert fields["key"] == long
    peer.send(peer.answer(stream, b"answer"))
    assert await task == b"answer"


async def test_windows_are_given_back_in_bulk(met, monkeypatch):
    """That of a stream as it is read, that of the connection whoever reads."""
    monkeypatch.setattr(connection, "STREAM_WINDOW", 1000)
    monkeypatch.setattr(connection, "_CONNECTION_DEBT", 2000)
    wire, peer = met
    async with aclosing(wire.streaming("/a.B/C")(b"")) as messages:
        first = asyncio.create_task(anext(messages))
        stream, _ = await peer.request()
        peer.send(peer.opening(stream), peer.data(stream, _message(600)))
        await first
        update = await peer.frame(frames.WINDOW_UPDATE)
        assert (update.stream, int.from_bytes(update.payload, "big")) == (stream, 600)
        peer.send(peer.data(stream, _message(300)), peer.data(stream, _message(310)))
        await _read(peer)
        assert [len(await anext(messages)) for _ in range(2)] == [295, 305]
        update = await peer.frame(frames.WINDOW_UPDATE)
        assert (update.stream, int.from_bytes(update.payload, "big")) == (stream, 610)
        peer.send(peer.data(stream, _message(400)), peer.data(stream, _message(390)))
        update = await peer.frame(frames.WINDOW_UPDATE)
        assert (update.stream, int.from_bytes(update.payload, "big")) == (0, 2000)


def _message(size):
    """A message of so many bytes, prefix included."""
    return b"\0" + (size - 5).to_bytes(4, "big") + bytes(size - 5)


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        (frames.head(4, frames.PUSH_PROMISE, 4, 1) + bytes(4), 1, "a push"),
        (frames.head(8, frames.PING, 0, 1) + bytes(8), 1, "a ping of a stream"),
        (frames.head(0, frames.SETTINGS, 0, 1), 1, "settings of a stream"),
        (frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), 3, "a window of"),
        (frames.settings({Setting.MAX_FRAME_SIZE: 2**14 - 1}), 1, "frames of 16383"),
        (frames.settings({Setting.ENABLE_PUSH: 1}), 1, "pushes"),
        (frames.window_update(0, 0), 1, "grows by nothing"),
        (frames.window_update(0, 2**31 - 1), 3, "overflows"),
        (frames.window_update(9, 1), 1, "stream 9 was never opened"),
        (frames.head(0, frames.DATA, 0, 3), 1, "stream 3 was never opened"),
        (frames.head(0, frames.HEADERS, 4, 2), 1, "stream 2 was never opened"),
        (frames.head(4, frames.RST_STREAM, 0, 5) + bytes(4), 1, "stream 5 was never opened"),
        (frames.head(7, frames.GOAWAY) + bytes(7), 1, "half of one"),
        (frames.head(1, frames.HEADERS, 5, 1) + b"\xbe", 9, "a header block"),
        (frames.head(2**14 + 1, frames.DATA, 0, 1), 6, "a frame of 16385"),
    ],
)
async def test_broken_rules_close_the_connection(calling, sent, code, message):
    """The call says why, and so does the farewell."""
    task, peer, _ = await calling()
    peer.send(sent)
    found = await failure(task)
    assert found.code == "INTERNAL"
    assert message in found.message
    farewell = await peer.frame(frames.GOAWAY)
    assert int.from_bytes(farewell.payload[4:8], "big") == code
    assert message.encode() in farewell.payload


async def test_more_than_the_window_is_refused(calling, monkeypatch):
    """Who sends it would fill our memory."""
    monkeypatch.setattr(connection, "STREAM_WINDOW", 100)
    task, peer, stream = await calling()
    peer.send(peer.opening(stream), peer.data(stream, bytes(101)))
    assert "more than the window holds" in (await failure(task)).message


async def test_lost_connection_is_unavailable(calling):
    """For whoever runs on it."""
    task, peer, _ = await calling()
    peer.close()
    assert str(await failure(task)) == "UNAVAILABLE: the server closed the connection"


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_server_that_is_none_is_told(greeting):
    """One that answers in HTTP/1, and one that hangs up."""

    async def meet(_, writer):
        writer.write(greeting)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(
            CallFailed, match="not HTTP/2" if greeting else "closed the connection|lost"
        ):
            async with open_wire(f"127.0.0.1:{port}"):
                pass
