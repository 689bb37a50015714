"""What every call gets: an id, a place in the metrics, a line in the log, a mapped error."""

from __future__ import annotations  # the RPC handler class is generic to type checkers only

import asyncio
import contextvars
import inspect
import random
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog

from imagemint.engine.errors import ImagemintError
from imagemint.server.metrics import Later, Metrics
from imagemint.server.rpc.auth import ANYBODY, Guard, Metadata, count_refusal, current_caller
from imagemint.server.rpc.errors import REQUEST_ID_KEY, outcome_of
from imagemint.server.rpc.messages import reader_of

if TYPE_CHECKING:  # OpenTelemetry is imported only when something is traced
    from imagemint.server.batching import Job
    from imagemint.server.tracing import CallSpan, Tracing

_log = structlog.stdlib.get_logger(__name__)

# Ids must differ and nothing more. To ask the operating system would let go of the interpreter's
# lock, for which the instances are waiting, at each call.
_ids = random.Random()  # noqa: S311 - no secret

# What a caller sends as an id is logged and echoed, so it must be short and plain.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# A deadline travels as time left, so it ends at the caller a journey earlier than here, and what
# arrives then is his cancellation.
_DEADLINE_SLACK_S = 0.02

# The server's fault, or its operator's: what spends the error budget in deploy/prometheus, too.
_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
# Balancers ask for health all day; nobody traces that.
_UNTRACED = "grpc."

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]


@dataclass(slots=True)
class Call:
    """The call being answered, found by `current_call`.

    Attributes:
        given_id: the caller's ``x-request-id``, which he gets back; '' without.
        model: name of a model that exists, or '' while none is known.
        images: images sent so far.
        span: None unless the call is traced.
    """

    given_id: str
    model: str = ""
    images: int = 0
    span: CallSpan | None = None
    began: float = field(default_factory=time.perf_counter)
    _made_id: str = ""

    @property
    def request_id(self) -> str:
        """The caller's id, or one that is made when somebody asks for it."""
        if not self.given_id and not self._made_id:
            self._made_id = f"{_ids.getrandbits(128):032x}"
        return self.given_id or self._made_id

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


@dataclass(slots=True)
class _Running:
    """The calls of one service that are being answered."""

    calls: int = 0


current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("current_call")


class Routes(grpc.GenericRpcHandler):
    """The way of every call to its handler, once it is known who calls.

    Handlers are wrapped when they are added, as the functions that are generated for each service
    do: to those it passes for a server. An interceptor would do the same for each call anew, in
    coroutines of its own: a tenth of what a call costs.

    Args:
        metrics: where to count.
        guard: lets callers in.
        access_log: share of calls that are logged, 0 to 1; those that fail always are.
        tracing: what makes spans, or None.
    """

    def __init__(
        self,
        metrics: Metrics,
        guard: Guard,
        *,
        access_log: float = 0.0,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._guard = guard
        self._access_log = access_log
        self._tracing = tracing
        self._handlers: dict[str, Handler] = {}
        self._running: dict[str, _Running] = {}
        # To look a counter up takes longer than to count; there are as many as in the registry.
        self._kept: dict[tuple[str, str, str, str], Later[float]] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Does nothing: the same handlers come with `add_registered_method_handlers`."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Takes the handlers of a service."""
        for method, handler in method_handlers.items():
            name = f"/{service_name}/{method}"
            self._handlers[name] = self._wrap(name, handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Returns the handler of a method; or one that refuses the call."""
        name = handler_call_details.method
        handler = self._handlers.get(name)
        if handler is None:
            return None
        metadata = handler_call_details.invocation_metadata or ()
        # The handler runs in this very task, and so in this context.
        current_call.set(Call(_given_id(metadata)))
        try:
            caller = self._guard.caller(name, metadata)
        except ImagemintError as error:
            return self._refusing(name, error)
        if caller is not ANYBODY:  # as which he begins
            current_caller.set(caller)
        return handler

    def _wrap(self, name: str, handler: Handler) -> Handler:
        _, service, method = name.split("/")
        kind, behaviour = _kind_and_behaviour(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _writing(behaviour)
        # gRPC would answer bytes that are no message with UNKNOWN, and those of a call with one
        # request before anything is counted: such calls read theirs themselves.
        read = reader_of(name, handler.request_deserializer)
        if handler.request_streaming:
            watched = self._watched(service, method, behaviour)
            return kind(watched, read, handler.response_serializer)
        watched = self._watched(service, method, behaviour, read=read)
        return kind(watched, None, handler.response_serializer)

    def _refusing(self, name: str, error: ImagemintError) -> Handler:
        """A handler that answers with an error whatever it is asked."""
        _, service, method = name.split("/")

        async def refuse(request: object, context: Context) -> None:
            del request, context
            raise error

        current_caller.set(ANYBODY)
        # The client cannot tell, and a handler of streams is called before the request is read.
        return grpc.stream_stream_rpc_method_handler(
            self._watched(service, method, refuse, admit=False)
        )

    def _watched(
        self,
        service: str,
        method: str,
        behaviour: Behaviour,
        *,
        read: Callable[[bytes], Any] | None = None,
        admit: bool = True,
    ) -> Behaviour:
        running = self._running_of(service)
        counted = admit and self._guard.counts(f"/{service}/{method}")
        tracing = None if service.startswith(_UNTRACED) else self._tracing

        async def watched(
            request: Any,  # noqa: ANN401 - likewise
            context: Context,
        ) -> Any:  # noqa: ANN401 - likewise
            call, caller = current_call.get(), current_caller.get()
            if tracing is not None:
                call.span = tracing.call(f"{service}/{method}", _text_metadata(context))
            code = grpc.StatusCode.OK
            running.calls += 1
            try:
                if call.given_id:
                    context.set_trailing_metadata(((REQUEST_ID_KEY, call.given_id),))
                if read is not None:
                    request = read(request)
                if not counted:
                    return await behaviour(request, context)
                entered = self._guard.enter(caller)
                try:
                    return await behaviour(request, context)
                finally:
                    self._guard.leave(entered)
            except asyncio.CancelledError:
                # Re-raised: a handler that swallows it leaks. Core cancels for either reason.
                remaining = context.time_remaining()
                late = remaining is not None and remaining <= _DEADLINE_SLACK_S
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = _status_code(context.code())
                raise
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                count_refusal(self._metrics, error, call.model)
                outcome = outcome_of(caller.as_seen(error), call.request_id)
                code = outcome.code
                if code is grpc.StatusCode.INTERNAL:
                    _log.exception(
                        "call failed", request_id=call.request_id, method=method, **_traced(call)
                    )
                await context.abort(outcome.code, outcome.message, outcome.trailing_metadata)
            finally:
                running.calls -= 1
                self._record(service, method, call, code)

        return watched

    def _running_of(self, service: str) -> _Running:
        running = self._running.get(service)
        if running is None:
            running = self._running[service] = _Running()
            self._metrics.watch(self._metrics.inflight, (service,), lambda: running.calls)
        return running

    def _record(self, service: str, method: str, call: Call, code: grpc.StatusCode) -> None:
        took_s = time.perf_counter() - call.began
        # An enum's name is looked up by code in Python.
        name = "OK" if code is grpc.StatusCode.OK else code.name
        outcome = service, method, call.model, name
        durations = self._kept.get(outcome)
        if durations is None:
            durations = self._kept[outcome] = self._counted(outcome)
        durations.add(took_s)
        if call.span is not None:
            call.span.end(
                code.name,
                failed=code in _FAULTS,
                request_id=call.request_id,
                model=call.model,
                images=call.images,
            )
        if code is not grpc.StatusCode.OK or self._chooses(call):
            _log.info(
                "call",
                request_id=call.request_id,
                service=service,
                method=method,
                model=call.model,
                client=current_caller.get().name,
                code=code.name,
                images=call.images,
                duration_ms=round(1e3 * took_s, 3),
                **_traced(call),
            )

    def _chooses(self, call: Call) -> bool:
        """Whether a call belongs to the share that is logged; one without an id by chance."""
        if call.given_id:
            return is_logged(call.given_id, self._access_log)
        return _ids.random() < self._access_log

    def _counted(self, outcome: tuple[str, str, str, str]) -> Later[float]:
        """What counts the calls that end in one way, by how long they took in seconds."""
        requests = self._metrics.requests.labels(*outcome)
        duration = self._metrics.request_duration.labels(*outcome[:3])

        def count(took_s: list[float]) -> None:
            requests.inc(len(took_s))
            duration.observe_all(took_s)

        return self._metrics.backlog.later(count)


def is_logged(request_id: str, share: float) -> bool:
    """Whether a call belongs to the share that is logged.

    The id alone decides, so that a call that is retried or travels through several servers is in
    the logs of all of them or of none.
    """
    return zlib.crc32(request_id.encode()) < share * 2**32


def _traced(call: Call) -> dict[str, str]:
    return {} if call.span is None else {"trace_id": call.span.trace_id}


def _text_metadata(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


def _kind_and_behaviour(handler: Handler) -> tuple[Callable[..., Handler], Behaviour]:
    """What makes a handler of the same kind, and what it does."""
    behaviour: Any  # the stubs know handlers of the threaded server only
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            kind, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            kind, behaviour = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            kind, behaviour = grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            kind, behaviour = grpc.stream_stream_rpc_method_handler, handler.stream_stream
    return kind, behaviour


def _writing(generator: Callable[[Any, Context], AsyncIterator[Any]]) -> Behaviour:
    """A generator of answers as a coroutine that writes them."""

    async def write(request: Any, context: Context) -> None:  # noqa: ANN401 - any request
        async for answer in generator(request, context):
            await context.write(answer)

    return write


def _given_id(metadata: Metadata) -> str:
    """The caller's id for the call; empty if there is none that will do."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return ""


def _status_code(code: object) -> grpc.StatusCode:
    """The aio context gives the code as an enum or as its integer, by version."""
    if isinstance(code, grpc.StatusCode):
        return code
    return next(
        (known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN
    )
