"""Tests of servers of the Open Inference Protocol as targets."""

import grpc
import numpy as np
import picture_model
import pytest
from peers.messages import make_inputs
from peers.oip import Oip

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.open_inference import grpc_service_pb2 as pb

TWO = parse_mix("count=2").kinds[0]
PIXELS = bytes(range(12))


@pytest.fixture
async def server(spec):
    """A handler that records requests and returns `server.answer`, with its target."""

    class Served:
        requests: list[pb.ModelInferRequest]
        answer: pb.ModelInferResponse

    async def infer(request, context):
        served.requests.append(request)
        if served.answer is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return served.answer

    served = Served()
    served.requests, served.answer = [], None
    running = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    service = "inference.GRPCInferenceService"
    running.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    served.target = Oip(f"127.0.0.1:{port}", "model", spec, pool=2)
    yield served
    await running.stop(None)


def make_answer(datatype, content):
    """Returns an answer of one tensor."""
    tensor = pb.ModelInferResponse.InferOutputTensor(name="image", datatype=datatype)
    return pb.ModelInferResponse(outputs=[tensor], raw_output_contents=[content])


@pytest.mark.parametrize("datatype", ["UINT8", "BYTES"])
async def test_request_has_latents_and_response_is_counted(server, spec, datatype):
    """Contents are raw in both directions.

    Pixels are one numeric tensor, or one element per image.
    """
    framed = picture_model.pack([PIXELS[:6], PIXELS[6:]])
    server.answer = make_answer(datatype, framed if datatype == "BYTES" else PIXELS)
    async with server.target.connect() as connection:
        reply = await connection.prepare_unary(TWO, 9)(1)
    assert reply.images == 2
    (request,) = server.requests
    z, class_id = make_inputs(spec, TWO, 9, 1)
    assert request.model_name == "model"
    assert [list(input_.shape) for input_ in request.inputs] == [[2, 4], [2, 1]]
    assert np.array_equal(np.frombuffer(request.raw_input_contents[0], "<f4"), z.ravel())
    assert np.array_equal(np.frombuffer(request.raw_input_contents[1], "<i8"), class_id.ravel())


async def test_png_has_its_own_model(server):
    """Batches must be of one kind, so the format is not a parameter of a request."""
    server.answer = make_answer("BYTES", picture_model.pack([b"a", b"b"]))
    async with server.target.connect() as connection:
        await connection.prepare_unary(parse_mix("count=2 format=png").kinds[0], 0)(0)
    assert server.requests[0].model_name == "model_png"


async def test_refusal_counts_as_shed(server):
    """RESOURCE_EXHAUSTED is the code of a full queue."""
    async with server.target.connect() as connection:
        with pytest.raises(CallFailed, match="full") as caught:
            await connection.prepare_unary(TWO, 0)(0)
    assert caught.value.shed


async def test_response_without_raw_contents_is_a_failure(server):
    """Typed numbers would cost the client more than the call."""
    server.answer = pb.ModelInferResponse()
    async with server.target.connect() as connection:
        with pytest.raises(CallFailed, match="NO_RAW_CONTENTS"):
            await connection.prepare_unary(TWO, 0)(0)
