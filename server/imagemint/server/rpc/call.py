"""The call being answered: what it is known by, what it holds, and how far it has come."""

from __future__ import annotations  # OpenTelemetry is imported only when something is traced

import asyncio
import contextvars
import math
import random
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import grpc

from imagemint.engine.errors import ImagemintError
from imagemint.server.access.caller import ANONYMOUS, Caller
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.rpc.connections import Peer, parse_peer

if TYPE_CHECKING:
    from imagemint.server.batching import Job
    from imagemint.server.telemetry.tracing import CallSpan

# Ids must differ and nothing more. Asking the operating system would release the interpreter's
# lock, for which the instances are waiting, at each call.
_ids = random.Random()  # noqa: S311 - no secret

# While an answer waits for its reader, its bytes exist in the message, in what was serialized of it
# and in what gRPC buffers; while it is computed, once.
_COPIES = 3

Context = grpc.aio.ServicerContext[Any, Any]


class Call:
    """The call being answered, found by `current_call`.

    A plain class with defaults, because one is made for every call.

    Attributes:
        given_id: the caller's ``x-request-id``, which it gets back; '' without.
        model: name of a model that exists, or '' while none is known.
        images: images sent so far.
        span: None unless the call is traced.
        caller: who calls.
        owner: whose limits count: the name of the key, or the machine of a caller without one.
        sending_since: `time.monotonic` value when the write began that has not returned yet;
            infinity while there is none.
        ended: why the call must end before its time; None while it need not.
        budget: bounds the bytes of all calls; None for no bound.
        relieve: gives up what the call has made ahead of its reader, if it makes anything ahead.
    """

    model = ""
    images = 0
    span: CallSpan | None = None
    caller: Caller = ANONYMOUS
    owner = ""
    sending_since = math.inf
    ended: ImagemintError | None = None
    budget: Budget | None = None
    relieve: Callable[[], None] | None = None
    _made_id = ""
    _context: Context | None = None
    _task: asyncio.Task[Any] | None = None
    _reserved: dict[Hashable, int] | None = None

    def __init__(self, given_id: str = "") -> None:
        self.given_id = given_id
        self.began = time.perf_counter()

    def enter(self, context: Context, caller: Caller, owner: str) -> None:
        """Notes who makes the call, on the task that answers it."""
        self._context, self.caller, self.owner = context, caller, owner
        self._task = asyncio.current_task()

    @property
    def request_id(self) -> str:
        """The caller's id, or one that is made when somebody asks for it."""
        if not self.given_id and not self._made_id:
            self._made_id = f"{_ids.getrandbits(128):032x}"
        return self.given_id or self._made_id

    @property
    def peer(self) -> Peer | None:
        """The other end of the connection; None if it is not known."""
        return None if self._context is None else parse_peer(self._context.peer())

    # --- bytes in flight --------------------------------------------------------------------------

    async def reserve(self, size: int, piece: Hashable = None) -> None:
        """Waits until the budget has room for a piece of the answer.

        Args:
            size: bytes of its images as the model makes them.
            piece: what `release` is told; by default the whole answer, which is released when the
                call is over.
        """
        if self.budget is not None:
            await self.budget.wait(self.owner, _COPIES * size)
            self._record_reservation(size, piece)

    def reserve_now(self, size: int, piece: Hashable) -> bool:
        """Reserves bytes as `reserve` does if there is room now, and tells whether it did."""
        if self.budget is not None:
            if not self.budget.take(self.owner, _COPIES * size):
                return False
            self._record_reservation(size, piece)
        return True

    def release(self, piece: Hashable) -> None:
        """Returns the bytes of a piece that was sent or given up; harmless if it holds none."""
        if self._reserved and self.budget is not None:
            size = self._reserved.pop(piece, 0)
            if size:
                self.budget.give(self.owner, size)

    def release_all(self) -> None:
        """Returns all bytes that the call holds."""
        for piece in tuple(self._reserved or ()):
            self.release(piece)

    def _record_reservation(self, size: int, piece: Hashable) -> None:
        if self._reserved is None:
            self._reserved = {}
        self._reserved[piece] = self._reserved.get(piece, 0) + _COPIES * size

    # --- sending ----------------------------------------------------------------------------------

    async def send(self, context: Context, answer: object) -> None:
        """Writes one answer of a stream; returns once flow control has let it go.

        Raises:
            ImagemintError: the call must end, see `ended`.
        """
        self.sending_since = time.monotonic()
        await context.write(answer)
        self.sending_since = math.inf
        if self.ended is not None:
            raise self.ended

    def end(self, error: ImagemintError) -> None:
        """Ends the call with an error, at once unless a write is under way.

        A write cannot be given up without its connection; when it returns, `send` raises the error.
        """
        self.ended = error
        if self._task is not None and self.sending_since == math.inf:
            self._task.cancel()

    # --- tracing ----------------------------------------------------------------------------------

    def trace(self, job: Job) -> None:
        """Adds the stages of a job to the call's trace, as far as the job has come."""
        if self.span is None or not job.accepted_ns:
            return
        now = time.perf_counter_ns()
        self.span.stage("queue", job.accepted_ns, job.started_ns or now, images=job.count)
        if job.started_ns:
            self.span.stage(
                "inference",
                job.started_ns,
                job.finished_ns or now,
                images=job.count,
                # Of the batches that it was part of; they may have run side by side.
                batches_duration_s=job.inference_ns / 1e9,
            )

    def trace_encoding(self, began_ns: int, picture_format: str) -> None:
        """Adds the encoding of an answer, which ended just now, to the call's trace."""
        if self.span is not None:
            self.span.stage("encode", began_ns, time.perf_counter_ns(), format=picture_format)


current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("current_call")


async def send(context: Context, answer: object) -> None:
    """Writes one answer of a stream, on the task of the call; see `Call.send`."""
    call = current_call.get(None)
    if call is None:
        await context.write(answer)
    else:
        await call.send(context, answer)
