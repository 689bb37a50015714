"""One ModelStreamInfer call: reads ahead of its answers, and answers in order."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import grpc

from imagemint.engine.errors import Draining
from inference import grpc_service_pb2 as messages

# Requests of one stream under way, or answered and not yet taken: enough that a stream of single
# images fills a good batch, and all that a reader who stops reading costs.
_AHEAD = 32

Context = grpc.aio.ServicerContext[Any, Any]


class Answering(Protocol):
    """Answers one request, its failure included."""

    def __call__(
        self, request: messages.ModelInferRequest, context: Context, *, patient: bool
    ) -> Coroutine[Any, Any, messages.ModelStreamInferResponse]:
        """Returns the answer.

        Args:
            request: what was asked.
            context: of the stream.
            patient: whether to wait for room in the queue; a request is refused for want of room
                only while the stream itself fills none of it.
        """


class InferStream:
    """A stream of requests and their answers.

    Args:
        context: of the call.
        answering: answers one request.
    """

    def __init__(self, context: Context, answering: Answering) -> None:
        self._context = context
        self._answering = answering
        self._room = asyncio.Semaphore(_AHEAD)
        self._under_way: set[asyncio.Task[messages.ModelStreamInferResponse]] = set()
        self._answers: asyncio.Queue[asyncio.Task[messages.ModelStreamInferResponse] | None] = (
            asyncio.Queue()
        )
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves the stream until its client is done with it.

        Raises:
            Draining: dismissed; what was taken is answered.
        """
        reader = self._reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (answer := await self._answers.get()) is not None:
                # Returns once flow control has let it go: a slow reader holds us here.
                await self._context.write(await answer)
                self._room.release()
        finally:
            reader.cancel()
            for task in self._under_way:
                task.cancel()
        if reader.cancelled():
            raise Draining(1.0)
        await reader

    def dismiss(self) -> None:
        """Takes no more requests."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        while True:
            await self._room.acquire()
            request = await self._context.read()
            if request is grpc.aio.EOF:
                return
            answer = asyncio.create_task(
                self._answering(request, self._context, patient=bool(self._under_way))
            )
            self._under_way.add(answer)
            answer.add_done_callback(self._under_way.discard)
            self._answers.put_nowait(answer)
