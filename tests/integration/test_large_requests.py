"""Tests of requests with too many parts, which are refused without affecting others."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

EMPTY_INPUTS = b"\x2a\x00" * 700_000
INFERENCE, GENERATION = "inference.GRPCInferenceService", "imagemint.v1.GenerationService"


def nest(*numbers, content):
    """Returns a message in nested fields, the outermost number first."""
    for number in reversed(numbers):
        length, size = len(content), bytearray()
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        content = bytes([number << 3 | 2, *size, length]) + content
    return content


@pytest.mark.parametrize(
    ("method", "content"),
    [
        (f"{INFERENCE}/ModelInfer", EMPTY_INPUTS),
        (f"{INFERENCE}/ModelInfer", b"\x22\x00" * 700_000),
        (f"{INFERENCE}/RepositoryModelLoad", b"\x1a\x00" * 700_000),
        (f"{GENERATION}/Generate", nest(1, 10, 1, content=b"\x01" * 3_000_000)),
        (f"{GENERATION}/Generate", nest(1, 9, 1, content=b"\x01" * 3_000_000)),
        (f"{GENERATION}/Generate", b"\x0a\x00" * 700_000),
    ],
    ids=["inputs", "parameters", "load parameters", "cycle", "classes", "parts"],
)
async def test_request_with_too_many_parts_is_refused(app, connect, details_of, method, content):
    """INVALID_ARGUMENT has the limit of the list that is too long."""
    async with connect(app) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{method}")(content)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = details_of(caught.value)["BadRequest"].field_violations
        assert "more than" in violation.description


async def test_stream_with_too_many_parts_ends(app, connect):
    """The stream ends with INVALID_ARGUMENT, and the next caller is answered."""
    async with connect(app) as channel:
        infer = channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")()
        await infer.write(EMPTY_INPUTS)
        cycle = nest(1, 10, 1, content=b"\x01" * 3_000_000)
        for call in (infer, channel.unary_stream(f"/{GENERATION}/StreamGenerate")(cycle)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
