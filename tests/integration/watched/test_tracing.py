"""Tests of spans that a collector receives over OTLP."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from tiny_bundles import write_bundle

from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

ANYWHERE = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
GENERATE = "imagemint.v1.GenerationService/Generate"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that stores its spans."""

    def __init__(self):
        self.spans = []
        self.resource = {}

    def Export(self, request, context):  # noqa: N802 - named by the schema
        """Handles the only call of OTLP."""
        for of_resource in request.resource_spans:
            self.resource = read_attributes(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        return otlp.ExportTraceServiceResponse()

    def find_spans(self, name):
        """Returns the spans of a name in the order of their start."""
        found = [span for span in self.spans if span.name == name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


def read_attributes(holder):
    """Returns the attributes of a span or a resource as a dict."""
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in holder.attributes
    }


@pytest.fixture
def collector():
    """A collector that listens at `address` on its own threads."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.address = f"http://127.0.0.1:{port}"
    server.start()
    yield collector
    server.stop(None).wait()


@pytest.fixture
def serve(tmp_path, collector):
    """A function that runs calls against a traced server, which has stopped when it returns."""
    write_bundle(tmp_path, "tiny")

    async def run(conversation, **settings):
        settings = {"trace_endpoint": collector.address, "trace_sample_ratio": 1.0} | settings
        app = App(ServeSettings(repository=tmp_path, **ANYWHERE, **settings))
        await app.start()
        options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(app.grpc_address, options=options) as channel:
            await conversation(channel)
        await app.stop()

    return run


def start_call(channel, *metadata, model="tiny", count=3, **options):
    """Starts a call for PNG pictures."""
    request = pb.GenerateRequest(output={"format": 2})
    request.images.model, request.images.count = model, count
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    return stub.Generate(request, metadata=metadata, **options)


async def test_call_continues_the_trace_of_its_caller(serve, collector):
    """The caller's span is the parent of the call's span, which has queue, inference and encode."""

    async def conversation(channel):
        await start_call(channel, SAMPLED, ("x-request-id", "mine"))

    await serve(conversation, trace_sample_ratio=0.0)
    (call,) = collector.find_spans(GENERATE)
    stages = [collector.find_spans(name)[0] for name in ("queue", "inference", "encode")]
    assert len(collector.spans) == 4
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    assert call.parent_span_id.hex() == PARENT_ID
    assert call.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert {span.parent_span_id for span in stages} == {call.span_id}
    queue, inference, encode = stages
    moments = [call.start_time_unix_nano]
    for span in stages:
        moments += [span.start_time_unix_nano, span.end_time_unix_nano]
    moments.append(call.end_time_unix_nano)
    assert moments == sorted(moments)
    assert queue.end_time_unix_nano == inference.start_time_unix_nano
    assert read_attributes(encode) == {"imagemint.format": "png"}
    assert read_attributes(inference)["imagemint.images"] == 3
    assert read_attributes(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": GENERATE,
        "rpc.response.status_code": "OK",
        "imagemint.request_id": "mine",
        "imagemint.model": "tiny",
        "imagemint.images": 3,
    }
    assert collector.resource["service.name"] == "imagemint"
    assert collector.resource["service.version"]


async def test_local_collector_needs_no_proxy(serve, collector, proxy_connections):
    """A collector on loopback is reached directly, whatever proxy the environment names."""

    async def conversation(channel):
        await start_call(channel, SAMPLED)

    await serve(conversation)
    assert collector.find_spans(GENERATE)
    assert proxy_connections() == 0


async def test_decision_of_the_caller_overrides_the_ratio(serve, collector):
    """An unsampled caller is not sampled. Without a decision the ratio applies."""

    async def conversation(channel):
        await start_call(channel, UNSAMPLED)
        await start_call(channel, ("traceparent", "not one"))
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    await serve(conversation)
    (call,) = collector.find_spans(GENERATE)
    assert call.trace_id.hex() != TRACE_ID
    assert call.parent_span_id == b""
    assert {span.name for span in collector.spans} == {GENERATE, "queue", "inference", "encode"}


async def test_no_span_is_sent_at_ratio_zero(serve, collector):
    """Calls without a trace send no span."""
    await serve(start_call, trace_sample_ratio=0.0)
    assert not collector.spans


async def test_only_server_failures_are_errors(serve, collector, tmp_path):
    """A failure of the server is an error, and a failure of the caller is not."""
    (tmp_path / "broken/1").mkdir(parents=True)

    async def conversation(channel):
        for model in ("nobody", "broken"):
            with pytest.raises(grpc.aio.AioRpcError):
                await start_call(channel, model=model)

    await serve(conversation)
    unknown, broken = collector.find_spans(GENERATE)
    assert unknown.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert read_attributes(unknown)["rpc.response.status_code"] == "NOT_FOUND"
    assert broken.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert read_attributes(broken)["error.type"] == "UNAVAILABLE"


async def test_expired_call_has_a_queue_span(serve, collector):
    """The trace of a call whose deadline passes shows that it waited in the queue."""

    async def conversation(channel):
        await channel.channel_ready()  # so that all of its time is spent in the queue
        with pytest.raises(grpc.aio.AioRpcError):
            await start_call(channel, timeout=0.5)

    # It waits for more jobs longer than its deadline.
    await serve(conversation, batch_delay_ms=1_000)
    (call,) = collector.find_spans(GENERATE)
    (stage,) = (span for span in collector.spans if span is not call)
    assert (stage.name, stage.parent_span_id) == ("queue", call.span_id)


async def test_number_of_spans_of_a_stream_is_limited(serve, collector):
    """The first stages of a long stream are kept, and the others are counted."""

    async def conversation(channel):
        request = pb.StreamGenerateRequest(chunk_size=1)
        request.images.model, request.images.count = "tiny", 40
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        assert len([chunk async for chunk in stub.StreamGenerate(request)]) == 40

    await serve(conversation)
    (call,) = collector.find_spans("imagemint.v1.GenerationService/StreamGenerate")
    assert len(collector.spans) == 1 + 99
    assert read_attributes(call)["imagemint.stages_left_out"] == 3 * 40 - 99
    assert read_attributes(call)["imagemint.images"] == 40


async def test_missing_collector_is_no_failure(serve):
    """Calls are answered and the server stops, although the spans cannot be sent."""
    await serve(start_call, trace_endpoint="http://127.0.0.1:1")


def test_tracing_is_not_imported_when_disabled(tmp_path):
    """A server without tracing does not need the extra."""
    write_bundle(tmp_path, "tiny")
    program = f"""
import asyncio, sys
sys.modules["opentelemetry"] = None
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings

async def main():
    app = App(ServeSettings(repository={str(tmp_path)!r}, **{ANYWHERE!r}))
    await app.start()
    await app.stop()

asyncio.run(main())
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_collector_address_is_validated():
    """An address needs a scheme, which selects TLS, and a port."""
    for wrong in ("localhost:4317", "http://localhost", "ftp://localhost:4317", ""):
        with pytest.raises(ValueError, match="trace_endpoint"):
            ServeSettings(trace_endpoint=wrong)
    assert ServeSettings(trace_endpoint="https://collector.example:4317")
