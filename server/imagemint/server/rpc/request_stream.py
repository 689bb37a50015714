"""A call with a stream both ways: reads requests ahead and answers them in order."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from imagemint.engine.errors import Draining
from imagemint.server.rpc.call import current_call, send
from imagemint.server.rpc.submission import Gate

# Most requests of one stream that are running, or answered and not yet read. With it, a stream of
# single images fills a good batch, and a client that stops reading costs no more.
_AHEAD = 32
# Most bytes of these requests, but at least one request.
_AHEAD_BYTES = 4 * 2**20
# A draining server ends a stream after this silence. By then, requests that the client sent before
# it knew of the drain have arrived.
_SILENCE_S = 0.5

Context = grpc.aio.ServicerContext[Any, Any]


RequestT = TypeVar("RequestT", bound=Message)
_RequestT_contra = TypeVar("_RequestT_contra", bound=Message, contravariant=True)


class Answerer(Protocol[_RequestT_contra]):
    """A function that answers one request. The calls begin in the order of the requests."""

    def __call__(
        self, request: _RequestT_contra, context: Context, *, patient: bool
    ) -> Coroutine[Any, Any, object]:
        """Returns the answer to a request; an error ends the stream.

        Args:
            request: the request.
            context: context of the stream.
            patient: whether to wait for room in the queue. A request is refused for lack of room
                only if the stream has no other request running.
        """


class RequestStream(Generic[RequestT]):
    """A stream of requests and their answers.

    Args:
        context: context of the call.
        answer_request: answers one request.
        gate: tells whether the grace period of a drain is nearly over.
    """

    def __init__(self, context: Context, answer_request: Answerer[RequestT], gate: Gate) -> None:
        self._context = context
        self._answer_request = answer_request
        self._gate = gate
        self._sizes: dict[asyncio.Task[object], int] = {}
        self._sent = asyncio.Event()
        self._under_way: set[asyncio.Task[object]] = set()
        self._tasks: asyncio.Queue[asyncio.Task[object] | None] = asyncio.Queue()
        self._dismissed = False
        self._left = False
        self._reading: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Serves the stream until the client closes it.

        Raises:
            Draining: the server shuts down, and the stream is silent or out of time. The accepted
                requests are answered.
        """
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._tasks.put_nowait(None))
        try:
            while (oldest := await self._tasks.get()) is not None:
                # Returns when flow control has accepted the answer, so a slow reader blocks it.
                await send(self._context, await oldest)
                if (call := current_call.get(None)) is not None:
                    call.release(oldest)  # its task reserved the bytes
                del self._sizes[oldest]
                self._sent.set()
        finally:
            reader.cancel()
            for task in self._under_way:
                task.cancel()
        await reader
        if self._left:
            raise Draining(1.0)

    def dismiss(self) -> None:
        """Ends the stream at its first silence, or when the grace period is nearly over."""
        self._dismissed = True
        if self._reading is not None:
            self._limit_silence(self._reading)

    async def _read(self) -> None:
        while not self._gate.expiring:
            await self._wait_for_room(0)
            request = await self._read_next()
            if request is None:
                return
            size = request.ByteSize()
            await self._wait_for_room(size)
            task = asyncio.create_task(
                self._answer_request(request, self._context, patient=bool(self._under_way))
            )
            self._sizes[task] = size
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            self._tasks.put_nowait(task)
        self._left = True

    async def _wait_for_room(self, size: int) -> None:
        """Waits until another request of this many bytes may run."""
        while self._sizes and (
            len(self._sizes) >= _AHEAD or sum(self._sizes.values()) + size > _AHEAD_BYTES
        ):
            self._sent.clear()
            await self._sent.wait()

    async def _read_next(self) -> RequestT | None:
        """Returns the next request; None at the end, or after a silence during a drain."""
        try:
            async with asyncio.timeout(None) as self._reading:
                if self._dismissed:
                    self._limit_silence(self._reading)
                request: Any = await self._context.read()
        except TimeoutError:
            self._left = True
            return None
        finally:
            self._reading = None
        return None if request is grpc.aio.EOF else request

    def _limit_silence(self, reading: asyncio.Timeout) -> None:
        reading.reschedule(asyncio.get_running_loop().time() + _SILENCE_S)
