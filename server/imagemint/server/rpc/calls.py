"""What every call gets: an id, a place in the metrics, a line in the log, a mapped error."""

from __future__ import annotations  # the RPC handler class is generic to type checkers only

import asyncio
import contextvars
import hashlib
import inspect
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog

from imagemint.server.metrics import Metrics
from imagemint.server.rpc.errors import REQUEST_ID_KEY, outcome_of

if TYPE_CHECKING:  # OpenTelemetry is imported only when something is traced
    from imagemint.server.batching import Job
    from imagemint.server.tracing import CallSpan, Tracing

_log = structlog.stdlib.get_logger(__name__)

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
Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


@dataclass
class Call:
    """The call being answered, found by `current_call`.

    Attributes:
        request_id: from the caller's ``x-request-id``, or a fresh one.
        model: name of a model that exists, or '' while none is known.
        images: images sent so far.
        span: None unless the call is traced.
    """

    request_id: str
    model: str = ""
    images: int = 0
    span: CallSpan | None = None
    began: float = field(default_factory=time.perf_counter)

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


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler that is a coroutine; that is all but reflection.

    Args:
        metrics: where to count.
        access_log: share of calls that are logged, 0 to 1; those that fail always are.
        tracing: what makes spans, or None.
    """

    def __init__(
        self, metrics: Metrics, *, access_log: float = 0.0, tracing: Tracing | None = None
    ) -> None:
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the wrapped handler of a method, made once."""
        handler = await continuation(handler_call_details)
        if handler is None or not inspect.iscoroutinefunction(_kind_and_behaviour(handler)[1]):
            return handler
        name = handler_call_details.method
        if name not in self._wrapped:
            self._wrapped[name] = self._wrap(name, handler)
        return self._wrapped[name]

    def _wrap(self, name: str, handler: Handler) -> Handler:
        _, service, method = name.split("/")
        kind, behaviour = _kind_and_behaviour(handler)
        watched = self._watched(service, method, behaviour)
        return kind(watched, handler.request_deserializer, handler.response_serializer)

    def _watched(self, service: str, method: str, behaviour: Behaviour) -> Behaviour:
        inflight = self._metrics.inflight.labels(service)
        tracing = None if service.startswith(_UNTRACED) else self._tracing

        async def watched(
            request: Any,  # noqa: ANN401 - likewise
            context: grpc.aio.ServicerContext[Any, Any],
        ) -> Any:  # noqa: ANN401 - likewise
            call = Call(_request_id(context))
            current_call.set(call)
            if tracing is not None:
                call.span = tracing.call(f"{service}/{method}", _text_metadata(context))
            code = grpc.StatusCode.OK
            inflight.inc()
            try:
                context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
                return await behaviour(request, context)
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
                outcome = outcome_of(error, call.request_id)
                code = outcome.code
                if code is grpc.StatusCode.INTERNAL:
                    _log.exception(
                        "call failed", request_id=call.request_id, method=method, **_traced(call)
                    )
                await context.abort(outcome.code, outcome.message, outcome.trailing_metadata)
            finally:
                inflight.dec()
                self._record(service, method, call, code)

        return watched

    def _record(self, service: str, method: str, call: Call, code: grpc.StatusCode) -> None:
        took = time.perf_counter() - call.began
        self._metrics.requests.labels(service, method, call.model, code.name).inc()
        self._metrics.request_duration.labels(service, method, call.model).observe(took)
        if call.span is not None:
            call.span.end(
                code.name,
                failed=code in _FAULTS,
                request_id=call.request_id,
                model=call.model,
                images=call.images,
            )
        if code is not grpc.StatusCode.OK or is_logged(call.request_id, self._access_log):
            _log.info(
                "call",
                request_id=call.request_id,
                service=service,
                method=method,
                model=call.model,
                code=code.name,
                images=call.images,
                duration_ms=round(1e3 * took, 3),
                **_traced(call),
            )


def is_logged(request_id: str, share: float) -> bool:
    """Whether a call belongs to the share that is logged.

    The id alone decides, so that a call that is retried or travels through several servers is in
    the logs of all of them or of none.
    """
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


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


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def _status_code(code: object) -> grpc.StatusCode:
    """The aio context gives the code as an enum or as its integer, by version."""
    if isinstance(code, grpc.StatusCode):
        return code
    return next(
        (known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN
    )
