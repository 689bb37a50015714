"""Tests that long texts of callers are truncated in responses, trailers and logs."""

import grpc
import pytest
import pytest_asyncio

from imagemint.open_inference import grpc_service_pb2 as oip
from imagemint.open_inference import grpc_service_pb2_grpc
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import model_service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "y" * 3_900_000
MOST_CHARACTERS = 1_000


def make_tensor_request(**fields):
    """Returns a ModelInferRequest for one image, changed by keywords."""
    request = oip.ModelInferRequest(**{"model_name": "digits"} | fields)
    for name in ("seed", "index"):
        tensor = request.inputs.add(name=name, datatype="UINT64", shape=(1, 1))
        tensor.contents.uint64_contents.append(0)
    return request


def make_request(**fields):
    """Returns a GenerateRequest for one image."""
    return pb.GenerateRequest(images={"model": "digits", "count": 1} | fields)


GENERATION, MODELS = "imagemint.v1.GenerationService", "imagemint.v1.ModelService"
INFERENCE = "inference.GRPCInferenceService"
LONG_TEXTS = {
    "model": (GENERATION, "Generate", make_request(model=LONG)),
    "version": (GENERATION, "Generate", make_request(version=LONG)),
    "label": (GENERATION, "Generate", make_request(class_label=LONG)),
    "model to get": (MODELS, "GetModel", model_service_pb2.GetModelRequest(model=LONG)),
    "page": (MODELS, "ListModels", model_service_pb2.ListModelsRequest(page_token=LONG)),
    "model to infer": (INFERENCE, "ModelInfer", make_tensor_request(model_name=LONG)),
    "version to infer": (INFERENCE, "ModelInfer", make_tensor_request(model_version=LONG)),
    "id": (INFERENCE, "ModelInfer", make_tensor_request(id=LONG)),
    "input": (INFERENCE, "ModelInfer", make_tensor_request(inputs=[{"name": LONG}])),
    "datatype": (
        INFERENCE,
        "ModelInfer",
        make_tensor_request(inputs=[{"name": "z", "datatype": LONG}]),
    ),
    "output": (INFERENCE, "ModelInfer", make_tensor_request(outputs=[{"name": LONG}])),
    "metadata": (INFERENCE, "ModelMetadata", oip.ModelMetadataRequest(name=LONG)),
    "config": (INFERENCE, "ModelConfig", oip.ModelConfigRequest(name="digits", version=LONG)),
    "statistics": (INFERENCE, "ModelStatistics", oip.ModelStatisticsRequest(name=LONG)),
    "load": (INFERENCE, "RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name=LONG)),
    "load parameter": (
        *(INFERENCE, "RepositoryModelLoad"),
        oip.RepositoryModelLoadRequest(model_name="digits", parameters={LONG: {}}),
    ),
    "unload": (
        *(INFERENCE, "RepositoryModelUnload"),
        oip.RepositoryModelUnloadRequest(model_name=LONG),
    ),
    "repository": (
        *(INFERENCE, "RepositoryIndex"),
        oip.RepositoryIndexRequest(repository_name=LONG),
    ),
}


@pytest_asyncio.fixture(loop_scope="module")
async def channel(serve, models, connect):
    """A channel to a server with explicit model control."""
    app = await serve(models, model_control="explicit", load_models=["*"])
    async with connect(app) as channel:
        yield channel


async def test_long_texts_are_truncated(channel, caplog):
    """Message, status details and log have a truncated text for every method."""
    caplog.set_level("INFO")
    for name, (service, method, request) in LONG_TEXTS.items():
        call = channel.unary_unary(f"/{service}/{method}")(request.SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        assert error.code() is not grpc.StatusCode.INTERNAL, name
        assert len(error.details()) <= MOST_CHARACTERS, name
        assert sum(len(value) for _, value in error.trailing_metadata() or ()) < 4_000, name
    assert max(len(record.getMessage()) for record in caplog.records) <= MOST_CHARACTERS


async def test_long_texts_are_truncated_on_a_stream(channel):
    """The error of a request on a stream has truncated names."""
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer()
    for fields in ({"model_name": LONG}, {"model_version": LONG}, {"id": LONG}):
        await call.write(make_tensor_request(**fields))
        answer = await call.read()
        assert answer.error_message
        assert answer.ByteSize() < 2 * MOST_CHARACTERS
        assert answer.infer_response.model_name[:6] in ("digits", "yyyyyy")
    await call.write(make_tensor_request(id="x" * 256))
    answer = await call.read()
    assert (answer.error_message, answer.infer_response.id) == ("", "x" * 256)
    await call.done_writing()
