"""Made-up messages and bytes at every method: a mapped answer, and a server that lives on."""

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
# What the table of server/rpc/errors.py gives to callers who are to blame, and what a method that
# is not offered answers.
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


def status_of(channel, method, requests, metadata=()):
    """How a call ends that sends these bytes; OK too for a stream that was left."""
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
    """Reads a few answers and leaves: a watch, and many a stream, have no end."""
    for count, _ in enumerate(answers, 1):
        if count == enough:
            break
    answers.cancel()


def is_alive(channel):
    """Whether the server still answers what it can."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    return health_pb2.HealthCheckResponse.FromString(check(b"", timeout=WAIT_S)).status == 1


def names(method):
    """A method in the report of a test."""
    return f"{method.containing_service.name}.{method.name}"


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_made_up_messages_are_answered(served, fuzz, method):
    """Whatever the fields hold: OK, or a code that tells the caller what is wrong."""

    @fuzz
    @given(st.lists(messages(method.input_type), min_size=1, max_size=3))
    def ask(requests):
        wire = [request.SerializeToString() for request in requests]
        code, text = status_of(served.channel, method, wire)
        assert code in MAPPED, text

    ask()
    assert is_alive(served.channel)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_bytes_that_are_no_message_are_refused(served, method):
    """They are the caller's fault, and the answer says no more than that."""
    code, text = status_of(served.channel, method, [b"\x0a\xff\xff\xff\xff\xff"])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Error" not in text


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_random_bytes_are_answered(served, fuzz, method):
    """Some of them are messages, most are not; none is a failure of the server."""

    @fuzz
    @given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
    def ask(requests):
        code, text = status_of(served.channel, method, requests)
        assert code in MAPPED, text

    ask()
    assert is_alive(served.channel)


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "x-request-id", "traceparent"])
def test_made_up_headers_are_answered(locked, fuzz, name):
    """No header lets in who has no key, and none is a failure of the server."""
    letters = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
    method = METHODS[0]

    @fuzz
    @given(st.lists(st.one_of(letters, letters.map("Bearer {}".format)), max_size=3))
    def ask(values):
        metadata = [(name, value) for value in values]
        code, text = status_of(locked.channel, method, [b""], metadata)
        assert code is grpc.StatusCode.UNAUTHENTICATED, text

    ask()
    code, _ = status_of(locked.channel, method, [b""], [("x-api-key", compute_digest(""))])
    assert code is grpc.StatusCode.UNAUTHENTICATED


def test_unknown_method_is_unimplemented(served):
    """Paths that are no method of ours."""
    for path in ("/imagemint.v1.GenerationService/Nothing", "/no.Service/At", "/", "//", "/a/b/c"):
        with pytest.raises(grpc.RpcError) as caught:
            served.channel.unary_unary(path)(b"", timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
