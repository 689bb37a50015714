"""Wraps the handlers of all calls with ids, limits, metrics, log lines and statuses."""

from __future__ import annotations  # the RPC handler class is generic to type checkers only

import asyncio
import inspect
import random
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import grpc
import structlog

from imagemint.engine.errors import ImagemintError
from imagemint.server.access.caller import ANONYMOUS, Guard, Metadata, count_refusal, current_caller
from imagemint.server.rpc.call import Call, Context, current_call, send
from imagemint.server.rpc.connections import parse_machine
from imagemint.server.rpc.message_limits import MOST_HEALTH_CHECK_BYTES, make_reader
from imagemint.server.rpc.running_calls import RunningCalls
from imagemint.server.rpc.status import ATTEMPTS_KEY, REQUEST_ID_KEY, Outcome, make_outcome
from imagemint.server.telemetry.metrics import Later, Metrics, observe_each

if TYPE_CHECKING:  # OpenTelemetry is imported only when something is traced
    from imagemint.server.telemetry.tracing import Tracing

_log = structlog.stdlib.get_logger(__name__)

# A separate generator, because other code, such as tests, may use the global one.
_chance = random.Random()  # noqa: S311 - no secret

# The caller's id is logged and returned, so it must be short and plain.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# A deadline is sent as the time that remains, so it ends a little earlier at the caller than here.
# A cancellation that arrives within this time is the end of the deadline.
_DEADLINE_SLACK_S = 0.02

# Characters of an error message in the log. Messages can quote the caller, who then decides their
# length.
_MOST_DETAIL = 300

# Statuses that are the fault of the server or its operator. They spend the error budget in
# deploy/prometheus, too.
_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
# Calls of services with this prefix are not traced: load balancers check health continuously.
_UNTRACED = "grpc."

# Of a call that succeeded.
_NOTHING: Mapping[str, str] = MappingProxyType({})

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[[Any, Context], Awaitable[Any]]


@dataclass(slots=True)
class _Running:
    """Counts the running calls of one service."""

    calls: int = 0


class _Failure(NamedTuple):
    """Code and details of a failed call."""

    code: grpc.StatusCode
    error: BaseException
    outcome: Outcome | None = None
    """The status for the caller; None to raise the error instead."""

    def describe(self, context: Context) -> dict[str, str]:
        """Returns the fields of the log line that say why the call failed, and who made it.

        Several reasons share a status code, and a caller without a key has no name.
        """
        fields = {"peer": parse_machine(context.peer())}
        if self.outcome is not None:
            fields["reason"] = self.outcome.reason
            fields["detail"] = self.outcome.message[:_MOST_DETAIL]
        return fields


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Identifies the caller of each call, and wraps the handler of each method once.

    Args:
        metrics: the server's metrics.
        guard: identifies callers and enforces their limits.
        running_calls: the calls that are being answered.
        services: services whose number of running calls is a metric from the start. An autoscaler
            takes a missing series for an error, not for zero.
        access_log: share of successful calls that are logged, 0 to 1. Failed calls are always
            logged.
        tracing: creates spans; None for no tracing.
    """

    def __init__(
        self,
        metrics: Metrics,
        guard: Guard,
        running_calls: RunningCalls,
        *,
        services: tuple[str, ...] = (),
        access_log: float = 0.0,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._guard = guard
        self._running_calls = running_calls
        self._refusal: ImagemintError | None = None
        self.latest_s = 0.0
        """`time.monotonic` value at the arrival of the latest call; 0 before the first one.

        Health checks do not count: they are repeated, although the client calls another server.
        """
        self._access_log = access_log
        self._tracing = tracing
        # Wrapping a handler takes longer than the rest of this class, so wrapped ones are kept.
        self._handlers: dict[str, Handler] = {}
        self._running: dict[str, _Running] = {}
        for service in services:
            self._get_running(service)
        # A lookup takes longer than an increment, so the counters are kept. There are as many as in
        # the registry.
        self._counters: dict[tuple[str, str, str, str], Later[float]] = {}

    def refuse(self, error: ImagemintError) -> None:
        """Answers every new call with an error from now on, except health checks."""
        self._refusal = error

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the wrapped handler of a method, or a handler that refuses the call."""
        name = handler_call_details.method
        handler = self._handlers.get(name)
        if handler is None:
            found = await continuation(handler_call_details)
            if found is None:  # gRPC answers with UNIMPLEMENTED
                return None
            handler = self._handlers[name] = self._wrap(name, found)
        # The handler runs in this task, and therefore in this context.
        error = self.begin(name, handler_call_details.invocation_metadata or ())
        return handler if error is None else self._make_refusing_handler(name, error)

    def begin(self, name: str, metadata: Metadata) -> ImagemintError | None:
        """Begins a call in the current context: sets `current_call` and `current_caller`.

        Args:
            name: `/package.Service/Method`.
            metadata: the metadata of the call.

        Returns:
            Why the call is refused; None if it may go on.
        """
        current_call.set(Call(read_request_id(metadata)))
        is_health_check = self._guard.is_health_check(name)
        if not is_health_check:
            self.latest_s = time.monotonic()
        if self._refusal is not None and not is_health_check:
            self._metrics.rejected.labels("", self._refusal.reason.lower()).inc()
            return self._refusal
        try:
            caller = self._guard.identify(name, metadata)
        except ImagemintError as error:
            return error
        if caller is not ANONYMOUS:  # the default
            current_caller.set(caller)
        return None

    async def run(
        self, name: str, behaviour: Behaviour, context: Context, *, admit: bool = True
    ) -> Any:  # noqa: ANN401 - any answer
        """Runs a call that `begin` began and that did not come over gRPC.

        Limits, metrics, log lines, spans and errors are those of the method.

        Args:
            name: `/package.Service/Method`.
            behaviour: answers the call; its request is None.
            context: the part of gRPC's context that handlers use. Its `abort` must raise.
            admit: whether to count the call among the running ones; False for a refused call.
        """
        _, service, method = name.split("/")
        return await self._watch_behaviour(service, method, behaviour, admit=admit)(None, context)

    def _wrap(self, name: str, handler: Handler) -> Handler:
        _, service, method = name.split("/")
        kind, behaviour = _split_handler(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _make_writer(behaviour)
        # gRPC would answer malformed bytes with UNKNOWN, and in a call with one request before
        # anything is counted. Handlers of such calls therefore parse the request themselves.
        most_bytes = MOST_HEALTH_CHECK_BYTES if self._guard.is_health_check(name) else None
        read = make_reader(name, handler.request_deserializer, most_bytes)
        if handler.request_streaming:
            handle = self._watch_behaviour(service, method, behaviour)
            return kind(handle, read, handler.response_serializer)
        handle = self._watch_behaviour(service, method, behaviour, read=read)
        return kind(handle, None, handler.response_serializer)

    def _make_refusing_handler(self, name: str, error: ImagemintError) -> Handler:
        """Returns a handler that answers every request with an error."""
        _, service, method = name.split("/")

        async def refuse(request: object, context: Context) -> None:
            del request, context
            raise error

        current_caller.set(ANONYMOUS)
        # The client sees no difference, and a handler of streams is called before the request is
        # read.
        return grpc.stream_stream_rpc_method_handler(
            self._watch_behaviour(service, method, refuse, admit=False)
        )

    def _watch_behaviour(
        self,
        service: str,
        method: str,
        behaviour: Behaviour,
        *,
        read: Callable[[bytes], Any] | None = None,
        admit: bool = True,
    ) -> Behaviour:
        running = self._get_running(service)
        is_health_check = self._guard.is_health_check(f"/{service}/{method}")
        tracing = None if service.startswith(_UNTRACED) else self._tracing

        async def handle(
            request: Any,  # noqa: ANN401 - any request
            context: Context,
        ) -> Any:  # noqa: ANN401 - any answer
            call, caller = current_call.get(), current_caller.get()
            if tracing is not None:
                call.span = tracing.begin_call(
                    f"{service}/{method}", _select_text_metadata(context)
                )
            if call.given_id:
                context.set_trailing_metadata(((REQUEST_ID_KEY, call.given_id),))
            code, why = grpc.StatusCode.OK, _NOTHING
            running.calls += 1
            try:
                if admit:
                    self._running_calls.enter(
                        call, caller, context, is_health_check=is_health_check
                    )
                if read is not None:
                    request = read(request)
                return await behaviour(request, context)
            except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - see _make_failure
                failure = self._make_failure(call, error, method, context)
                code, why = failure.code, failure.describe(context)
                if (outcome := failure.outcome) is None:
                    raise failure.error from None
                call.sending_since = time.monotonic()
                await context.abort(outcome.code, outcome.message, outcome.trailing_metadata)
            finally:
                # When this returns, gRPC sends the answer, or the end of the stream.
                call.sending_since = time.monotonic()
                running.calls -= 1
                self._record(service, method, call, code, why, is_health_check=is_health_check)

        return handle

    def _make_failure(
        self, call: Call, error: asyncio.CancelledError | Exception, method: str, context: Context
    ) -> _Failure:
        """Returns the failure of a call. This is the only place that maps errors to statuses.

        Nothing is sent to a caller that has left or already has a status.
        """
        if isinstance(error, asyncio.CancelledError):
            if call.ended is None:  # raised again: a swallowed cancellation leaks
                return _Failure(_get_cancellation_code(context), error)
            error = call.ended
        elif isinstance(error, grpc.aio.AbortError):
            return _Failure(_parse_status_code(context.code()), error)
        elif isinstance(error, grpc.aio.InternalError):  # a write to a closed connection
            return _Failure(grpc.StatusCode.CANCELLED, asyncio.CancelledError())
        error = call.caller.filter_error(error)
        count_refusal(self._metrics, error, call.model)
        outcome = make_outcome(
            error,
            call.request_id,
            time_left_s=context.time_remaining(),
            previous_attempts=_count_previous_attempts(context),
        )
        if outcome.code is grpc.StatusCode.INTERNAL:
            _log.error(
                "call failed",
                request_id=call.request_id,
                method=method,
                exc_info=error,
                **_get_trace_fields(call),
            )
        return _Failure(outcome.code, error, outcome)

    def _get_running(self, service: str) -> _Running:
        running = self._running.get(service)
        if running is None:
            running = self._running[service] = _Running()
            self._metrics.watch(self._metrics.inflight, (service,), lambda: running.calls)
        return running

    def _record(
        self,
        service: str,
        method: str,
        call: Call,
        code: grpc.StatusCode,
        why: Mapping[str, str],
        *,
        is_health_check: bool,
    ) -> None:
        took_s = time.perf_counter() - call.began
        # The name of an enum member is a slow property, and most calls end with OK.
        name = "OK" if code is grpc.StatusCode.OK else code.name
        outcome = service, method, call.model, name
        durations = self._counters.get(outcome)
        if durations is None:
            durations = self._counters[outcome] = self._make_counter(outcome)
        durations.add(took_s)
        if call.span is not None:
            call.span.end(
                code.name,
                failed=code in _FAULTS,
                request_id=call.request_id,
                model=call.model,
                images=call.images,
            )
        # A client that watches health cancels the watch when it leaves.
        is_usual = code is grpc.StatusCode.OK or (
            is_health_check and code is grpc.StatusCode.CANCELLED
        )
        if not is_usual or self._should_log(call):
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
                **why,
                **_get_trace_fields(call),
            )

    def _should_log(self, call: Call) -> bool:
        """Returns whether to log a call. Calls without an id are chosen at random."""
        if call.given_id:
            return is_logged(call.given_id, self._access_log)
        return _chance.random() < self._access_log

    def _make_counter(self, outcome: tuple[str, str, str, str]) -> Later[float]:
        """Returns a counter of the calls with one outcome, with their durations in seconds."""
        requests = self._metrics.requests.labels(*outcome)
        observe = observe_each(self._metrics.request_duration.labels(*outcome[:3]))

        def count(took_s: list[float]) -> None:
            requests.inc(len(took_s))
            observe(took_s)

        return self._metrics.backlog.make_buffer(count)


def is_logged(request_id: str, share: float) -> bool:
    """Returns whether a call belongs to the logged share.

    The id alone decides. A call that is retried or passes several servers is therefore logged by
    all of them or by none.
    """
    return zlib.crc32(request_id.encode()) < share * 2**32


def _get_trace_fields(call: Call) -> dict[str, str]:
    return {} if call.span is None else {"trace_id": call.span.trace_id}


def _select_text_metadata(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


def _split_handler(handler: Handler) -> tuple[Callable[..., Handler], Behaviour]:
    """Returns the function that creates handlers of the same kind, and the handler's behaviour."""
    behaviour: Any  # the stubs only have the threaded server's handlers
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


def _get_cancellation_code(context: Context) -> grpc.StatusCode:
    """Returns why gRPC cancelled a call: its deadline has passed, or its caller has left."""
    remaining = context.time_remaining()
    late = remaining is not None and remaining <= _DEADLINE_SLACK_S
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _make_writer(generator: Callable[[Any, Context], AsyncIterator[Any]]) -> Behaviour:
    """Returns a coroutine function that writes the answers of a generator."""

    async def write(request: Any, context: Context) -> None:  # noqa: ANN401 - any request
        async for response in generator(request, context):
            await send(context, response)

    return write


def read_request_id(metadata: Metadata) -> str:
    """Returns the caller's id for the call; empty if it is missing or invalid."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return ""


def _count_previous_attempts(context: grpc.aio.ServicerContext[Any, Any]) -> int:
    """Returns how often gRPC has tried the call before; 0 if the header is missing or invalid."""
    text = _select_text_metadata(context).get(ATTEMPTS_KEY, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) == 1 else 0


def _parse_status_code(code: object) -> grpc.StatusCode:
    """Returns the code; the aio context has it as an enum or an integer, by version."""
    if isinstance(code, grpc.StatusCode):
        return code
    return next(
        (known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN
    )
