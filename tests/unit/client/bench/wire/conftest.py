"""A real gRPC server that does what it is asked, and a peer that sends what a test says."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio
from hpack import Decoder, Encoder

from imagemint.client.bench.wire import frames

SERVICE = "test.Service"


class Servant:
    """Handlers of `test.Service`; requests and answers are plain bytes."""

    def __init__(self):
        self.metadata = []
        self.remaining_s = []
        self.peers = set()
        self.running = 0
        self.most = 0
        self.sent = 0
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def Echo(self, request, context):  # noqa: N802 - the name of an RPC
        """What was sent."""
        self.metadata.append(context.invocation_metadata())
        self.remaining_s.append(context.time_remaining())
        self.peers.add(context.peer())
        return request

    async def Meet(self, request, context):  # noqa: N802 - the name of an RPC
        """What was sent, after others had their turn; counts who is here at once."""
        del context
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return request

    async def Fail(self, request, context):  # noqa: N802 - the name of an RPC
        """The status whose name was sent, with a text beyond ASCII."""
        await context.abort(grpc.StatusCode[request.decode()], "no — 100 %\n")

    async def Hang(self, request, context):  # noqa: N802 - the name of an RPC
        """Nothing, ever."""
        del request, context
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Count(self, request, context):  # noqa: N802 - the name of an RPC
        """Messages of the sizes that were sent, then the end or, where it says so, a failure."""
        try:
            for word in request.split():
                if word == b"fail":
                    await context.abort(grpc.StatusCode.DATA_LOSS, "half")
                elif word == b"hang":
                    await asyncio.Event().wait()
                else:
                    yield b"m" * int(word)
                    self.sent += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    def handler(self):
        """All of them, as gRPC takes them."""
        unary = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, name))
            for name in ("Echo", "Meet", "Fail", "Hang")
        }
        stream = {"Count": grpc.unary_stream_rpc_method_handler(self.Count)}
        return grpc.method_handlers_generic_handler(SERVICE, unary | stream)


@pytest.fixture
def servant():
    """What `serving` serves."""
    return Servant()


@pytest.fixture
def serving():
    """Serves a servant; gives address and server."""

    @asynccontextmanager
    async def serve(servant, *, credentials=None, bind="127.0.0.1:0", **options):
        server = aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
        server.add_generic_rpc_handlers((servant.handler(),))
        if credentials:
            port = server.add_secure_port(bind, credentials)
        else:
            port = server.add_insecure_port(bind)
        await server.start()
        try:
            yield f"127.0.0.1:{port}", server
        finally:
            await server.stop(0)

    return serve


class Peer:
    """The server's end of one connection, by hand."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer
        self._frames = frames.FrameReader()
        self._come = []
        self._encoder = Encoder()
        self._encoder.header_table_size = 0  # as the client asks
        self.decoder = Decoder()

    async def greet(self, settings=None):
        """Takes the preface, sends settings."""
        assert await self._reader.readexactly(len(frames.PREFACE)) == frames.PREFACE
        self.send(frames.settings(settings or {}))

    async def frame(self, *kinds):
        """The next frame of one of these kinds; others are left out."""
        while True:
            while self._come:
                found = self._come.pop(0)
                if found.kind in kinds:
                    return found
            data = await self._reader.read(2**16)
            if not data:
                raise EOFError
            self._come.extend(map(frames.Frame._make, self._frames.feed(data)))

    async def request(self):
        """Stream and header fields of the next request; its message is taken, too."""
        found = await self.frame(frames.HEADERS)
        fields = dict(self.decoder.decode(found.payload))
        data = await self.frame(frames.DATA)
        while not data.flags & frames.END_STREAM:
            data = await self.frame(frames.DATA)
        return found.stream, fields

    def send(self, *parts):
        """Sends frames as they are."""
        self._writer.write(b"".join(parts))

    def headers(self, stream, fields, *, end=False, flags=frames.END_HEADERS):
        """A HEADERS frame."""
        block = self._encoder.encode(fields)
        flags |= frames.END_STREAM if end else 0
        return frames.head(len(block), frames.HEADERS, flags, stream) + block

    def opening(self, stream):
        """How an answer begins."""
        return self.headers(stream, [(":status", "200"), ("content-type", "application/grpc")])

    def data(self, stream, payload, *, end=False):
        """A DATA frame."""
        flags = frames.END_STREAM if end else 0
        return frames.head(len(payload), frames.DATA, flags, stream) + payload

    def answer(self, stream, message):
        """A whole answer."""
        return b"".join(
            (
                self.opening(stream),
                self.data(stream, framed(message)),
                self.headers(stream, [("grpc-status", "0")], end=True),
            )
        )

    def close(self):
        """Ends the connection."""
        self._writer.close()


def framed(message):
    """A message with gRPC's prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@pytest.fixture
async def peers():
    """Listens; gives the address and a queue of the connections that come."""
    come = asyncio.Queue()
    found = []

    async def meet(reader, writer):
        found.append(Peer(reader, writer))
        come.put_nowait(found[-1])

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield f"127.0.0.1:{port}", come
    server.close()
    for each in found:
        each.close()
        await each._writer.wait_closed()


@pytest.fixture
def make_servant():
    """Builds one more servant."""
    return Servant
