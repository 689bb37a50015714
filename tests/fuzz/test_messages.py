"""Tests that generated messages get a mapped status, and that the server survives."""

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st
from made_up_messages import messages

from imagemint.open_inference import grpc_service_pb2
from imagemint.server.access.api_keys import compute_digest
from imagemint.v1 import generation_service_pb2, model_service_pb2

FILES = (generation_service_pb2, model_service_pb2, grpc_service_pb2, health_pb2, reflection_pb2)
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# The codes of server/rpc/errors.py for errors of callers, and the code of an unknown method.
MAPPED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
WAIT_S = 60.0


def call(channel, method, requests, metadata=()):
    """Returns the status of a call with these bytes. A stream that is left early counts as OK."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    options = {"timeout": WAIT_S, "metadata": metadata}
    streams = (method.client_streaming, method.server_streaming)
    try:
        match streams:
            case False, False:
                channel.unary_unary(path)(requests[0], **options)
            case False, True:
                leave_early(channel.unary_stream(path)(requests[0], **options), 1)
            case _:
                answers = channel.stream_stream(path)(iter(requests), **options)
                leave_early(answers, len(requests))
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def leave_early(answers, enough):
    """Reads a few responses and cancels the call, because some streams are endless."""
    for count, _ in enumerate(answers, 1):
        if count == enough:
            break
    answers.cancel()


def is_alive(channel):
    """Returns whether the server still answers."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    return health_pb2.HealthCheckResponse.FromString(check(b"", timeout=WAIT_S)).status == 1


def format_method(method):
    """Returns the name of a method for the report."""
    return f"{method.containing_service.name}.{method.name}"


@pytest.mark.parametrize("method", METHODS, ids=format_method)
def test_generated_messages_are_answered(served, fuzz, method):
    """Any content of the fields gives OK or a code that names an error of the caller."""

    @fuzz
    @given(st.lists(messages(method.input_type), min_size=1, max_size=3))
    def ask(requests):
        wire = [request.SerializeToString() for request in requests]
        code, text = call(served.channel, method, wire)
        assert code in MAPPED, text

    ask()
    assert is_alive(served.channel)


@pytest.mark.parametrize("method", METHODS, ids=format_method)
def test_invalid_bytes_are_refused(served, method):
    """They are an error of the caller, and the message reveals nothing else."""
    code, text = call(served.channel, method, [b"\x0a\xff\xff\xff\xff\xff"])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Error" not in text


@pytest.mark.parametrize("method", METHODS, ids=format_method)
def test_random_bytes_are_answered(served, fuzz, method):
    """Random bytes are rarely a message and never a failure of the server."""

    @fuzz
    @given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
    def ask(requests):
        code, text = call(served.channel, method, requests)
        assert code in MAPPED, text

    ask()
    assert is_alive(served.channel)


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "x-request-id", "traceparent"])
def test_generated_headers_are_answered(locked, fuzz, name):
    """No header admits a caller without a key, and none is a failure of the server."""
    letters = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
    method = METHODS[0]

    @fuzz
    @given(st.lists(st.one_of(letters, letters.map("Bearer {}".format)), max_size=3))
    def ask(values):
        metadata = [(name, value) for value in values]
        code, text = call(locked.channel, method, [b""], metadata)
        assert code is grpc.StatusCode.UNAUTHENTICATED, text

    ask()
    code, _ = call(locked.channel, method, [b""], [("x-api-key", compute_digest(""))])
    assert code is grpc.StatusCode.UNAUTHENTICATED


def test_unknown_method_is_unimplemented(served):
    """A path that is not a method gives UNIMPLEMENTED."""
    for path in ("/imagemint.v1.GenerationService/Nothing", "/no.Service/At", "/", "//", "/a/b/c"):
        with pytest.raises(grpc.RpcError) as caught:
            served.channel.unary_unary(path)(b"", timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
