"""The state of the call that is being answered."""

from __future__ import annotations  # OpenTelemetry is imported only for traced calls

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

# Ids only need to differ. Random bytes from the operating system would release the interpreter's
# lock at each call, and the instances wait for that lock.
_ids = random.Random()  # noqa: S311 - no secret

# While a response waits for its reader, its bytes exist three times: in the message, in its
# serialized form and in gRPC's buffer. While it is computed, they exist once.
_COPIES = 3

Context = grpc.aio.ServicerContext[Any, Any]


class Call:
    """The call that is being answered. Get it from `current_call`.

    It is a plain class with defaults, because an instance is created for every call.

    Attributes:
        given_id: the caller's ``x-request-id``, which the answer repeats; '' without one.
        model: name of an existing model; '' if it is not known yet.
        images: number of images sent so far.
        span: the span; None unless the call is traced.
        caller: the caller.
        owner: owner of the limits that apply: the name of the key, or the machine of a caller
            without a key.
        sending_since: `time.monotonic` value at the start of the write that has not returned yet;
            infinity if there is none.
        ended: the error with which the call must end early; None if it may go on.
        budget: limits the bytes of all calls; None for no limit.
        relieve: discards what the call has computed ahead of its reader; None if it computes
            nothing ahead.
    """

    model = ""
    images = 0
    span: CallSpan | None = None
    caller: Caller = ANONYMOUS
    owner = ""
    is_health_check = False
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

    def enter(
        self, context: Context, caller: Caller, owner: str, *, is_health_check: bool = False
    ) -> None:
        """Sets the caller. Runs on the task that answers the call."""
        self._context, self.caller, self.owner = context, caller, owner
        self.is_health_check = is_health_check
        self._task = asyncio.current_task()

    @property
    def request_id(self) -> str:
        """The caller's id, or a generated id. The first access generates it."""
        if not self.given_id and not self._made_id:
            self._made_id = f"{_ids.getrandbits(128):032x}"
        return self.given_id or self._made_id

    @property
    def peer(self) -> Peer | None:
        """Address of the other end of the connection; None if it is not known."""
        return None if self._context is None else parse_peer(self._context.peer())

    # --- bytes in flight --------------------------------------------------------------------------

    async def reserve(self, size: int, piece: Hashable = None) -> None:
        """Waits until the budget has room for a piece of the answer.

        Args:
            size: number of bytes of its images as the model returns them.
            piece: key for `release`. Default: the whole answer, which is released when the call
                ends.
        """
        if self.budget is not None:
            await self.budget.wait(self.owner, _COPIES * size)
            self._record_reservation(size, piece)

    def reserve_now(self, size: int, piece: Hashable) -> bool:
        """Reserves bytes like `reserve` if there is room now; returns whether it did."""
        if self.budget is not None:
            if not self.budget.take(self.owner, _COPIES * size):
                return False
            self._record_reservation(size, piece)
        return True

    def release(self, piece: Hashable) -> None:
        """Releases the bytes of a piece that was sent or discarded, if it holds any."""
        if self._reserved and self.budget is not None:
            size = self._reserved.pop(piece, 0)
            if size:
                self.budget.give(self.owner, size)

    def release_all(self) -> None:
        """Releases all bytes that the call holds."""
        for piece in tuple(self._reserved or ()):
            self.release(piece)

    def _record_reservation(self, size: int, piece: Hashable) -> None:
        if self._reserved is None:
            self._reserved = {}
        self._reserved[piece] = self._reserved.get(piece, 0) + _COPIES * size

    # --- sending ----------------------------------------------------------------------------------

    async def send(self, context: Context, response: object) -> None:
        """Writes one response of a stream. Returns when flow control has accepted it.

        Raises:
            ImagemintError: the call must end; see `ended`.
        """
        self.sending_since = time.monotonic()
        await context.write(response)
        self.sending_since = math.inf
        if self.ended is not None:
            raise self.ended

    def end(self, error: ImagemintError) -> None:
        """Ends the call with an error: at once, or after the write that is in progress.

        gRPC cannot cancel a write without closing its connection. When the write returns, `send`
        raises the error.
        """
        self.ended = error
        if self._task is not None and self.sending_since == math.inf:
            self._task.cancel()

    # --- tracing ----------------------------------------------------------------------------------

    def trace(self, job: Job) -> None:
        """Adds the stages that a job has passed to the call's trace."""
        if self.span is None or not job.accepted_ns:
            return
        now = time.perf_counter_ns()
        self.span.add_stage("queue", job.accepted_ns, job.started_ns or now, images=job.count)
        if job.started_ns:
            self.span.add_stage(
                "inference",
                job.started_ns,
                job.finished_ns or now,
                images=job.count,
                # The sum over the batches of the job, which may have run in parallel.
                batches_duration_s=job.inference_ns / 1e9,
            )

    def trace_decoding(self, began_ns: int, sources: int) -> None:
        """Adds the decoding of sources to the call's trace. The decoding has just ended."""
        if self.span is not None:
            self.span.add_stage("decode", began_ns, time.perf_counter_ns(), sources=sources)

    def trace_encoding(self, began_ns: int, picture_format: str) -> None:
        """Adds the encoding of a response to the call's trace. The encoding has just ended."""
        if self.span is not None:
            self.span.add_stage("encode", began_ns, time.perf_counter_ns(), format=picture_format)


current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("current_call")


async def send(context: Context, response: object) -> None:
    """Writes one response of a stream, on the task of the call; see `Call.send`."""
    call = current_call.get(None)
    if call is None:
        await context.write(response)
    else:
        await call.send(context, response)
