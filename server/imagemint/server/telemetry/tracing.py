"""OpenTelemetry spans of calls; imported only if `trace_endpoint` is set.

Each call has one span with child spans for the stages of its jobs: ``queue``, ``inference`` and
``encode``. A call with a W3C ``traceparent`` continues that trace and its sampling decision.
"""

import os
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from imagemint.server.settings import is_loopback, split_address

# Includes retries. An unreachable collector loses spans but never delays calls or the drain.
_EXPORT_S = 5.0
# Every chunk of a stream has three stages, and a stream can have a million chunks.
_MOST_STAGES = 99

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Creates the spans of calls and sends them to a collector, in batches, on its own thread.

    The environment variables of the SDK apply: ``OTEL_RESOURCE_ATTRIBUTES``,
    ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_EXPORTER_OTLP_CERTIFICATE`` and others.

    Args:
        endpoint: ``http://HOST:PORT`` of an OTLP gRPC collector; ``https`` for TLS.
        sample_ratio: share of the traces that begin here to keep, 0 to 1.
    """

    def __init__(self, endpoint: str, sample_ratio: float) -> None:
        host, _ = split_address(endpoint.partition("://")[2])
        # A collector on this machine is never behind a proxy. For others, the environment decides,
        # as for our client.
        proxy = (("grpc.enable_http_proxy", 0),) if is_loopback(host) else ()
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint,
            timeout=_EXPORT_S,
            channel_options=proxy,  # type: ignore[arg-type] # values may be numbers
        )
        resource = Resource.create(
            {
                SERVICE_NAME: "imagemint",
                SERVICE_VERSION: version("imagemint"),
                PROCESS_PID: os.getpid(),  # distinguishes the workers of one server
            }
        )
        # No exit hook: `close` shuts down, and a process that receives two signals must not wait.
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=resource,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("imagemint.server", version("imagemint"))

    def begin_call(self, method: str, metadata: Mapping[str, str]) -> "CallSpan | None":
        """Begins and returns the span of a call; returns None if the call is not sampled.

        Args:
            method: full name, ``package.Service/Method``.
            metadata: metadata of the call, possibly with ``traceparent`` and ``tracestate``.
        """
        parent = _propagator.extract(metadata)
        span = self._tracer.start_span(
            method,
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": method},
        )
        return CallSpan(self._tracer, span) if span.is_recording() else None

    def close(self, timeout_s: float) -> None:
        """Sends the remaining spans; gives up after `timeout_s`."""
        # The SDK always waits up to 30 s, whatever timeout is given.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            self._exporter.shutdown()


class CallSpan:
    """The span of one sampled call.

    Args:
        tracer: creates the spans of the stages.
        span: the span of the call, just begun.
    """

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)
        self._stages = 0
        # Jobs use the monotonic clock; spans use wall-clock time.
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, as in ``traceparent``."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def add_stage(
        self, name: str, began_ns: int, ended_ns: int, **attributes: AttributeValue
    ) -> None:
        """Adds a child span for a stage. After 99 stages, further ones are only counted.

        Args:
            name: ``queue``, ``inference`` or ``encode``.
            began_ns: `time.perf_counter_ns` at the start of the stage.
            ended_ns: `time.perf_counter_ns` at its end.
            attributes: attributes of the stage; each name gets the prefix ``imagemint.``.
        """
        self._stages += 1
        if self._stages > _MOST_STAGES:
            return
        span = self._tracer.start_span(
            name,
            context=self._context,
            start_time=self._epoch_ns + began_ns,
            attributes={f"imagemint.{key}": value for key, value in attributes.items()},
        )
        span.end(self._epoch_ns + ended_ns)

    def end(self, code: str, *, failed: bool, **attributes: AttributeValue) -> None:
        """Ends the span of the call.

        Args:
            code: name of the gRPC status code.
            failed: whether the code means a fault of the server.
            attributes: attributes of the call; each name gets the prefix ``imagemint.``.
        """
        for key, value in attributes.items():
            self._span.set_attribute(f"imagemint.{key}", value)
        self._span.set_attribute("rpc.response.status_code", code)
        if self._stages > _MOST_STAGES:
            self._span.set_attribute("imagemint.stages_left_out", self._stages - _MOST_STAGES)
        if failed:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
