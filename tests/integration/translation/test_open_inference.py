"""Tests of the tensor `source` of the Open Inference Protocol."""

import struct

import grpc
import numpy as np
import pytest
import pytest_asyncio
from made_sources import draw

from imagemint.engine.batch import Batch
from imagemint.engine.sampling import draw_classes, draw_latents
from imagemint.engine.serial import hash_source
from imagemint.open_inference import grpc_service_pb2 as oip
from imagemint.open_inference import grpc_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")
DATATYPES = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64", "uint64": "UINT64"}


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def inference(translating_app, connect):
    """The stub of GRPCInferenceService."""
    async with connect(translating_app) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def ask(model, outputs=(), **tensors):
    """Returns a request with raw tensors."""
    request = oip.ModelInferRequest(model_name=model)
    for name, values in tensors.items():
        request.inputs.add(name=name, datatype=DATATYPES[values.dtype.name], shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def image_of(answer):
    """Returns the pixels of an answer."""
    (output,) = (each for each in answer.outputs if each.name == "image")
    at = list(answer.outputs).index(output)
    return np.frombuffer(answer.raw_output_contents[at], np.uint8).reshape(tuple(output.shape))


async def test_sources_of_a_batch(inference, backends):
    """All rows have one size; the pixels are those of the engine, the serials name the sources."""
    for model, size in (("fixed", (6, 8)), ("free", (12, 20)), ("double", (8, 4))):
        sources = np.stack([draw(number, *size) for number in range(3)])
        answer = await inference.ModelInfer(ask(model, ("image", "serial"), source=sources))
        assert np.array_equal(image_of(answer), backends[model].run(Batch(source=sources)))
        (length,) = struct.unpack_from("<I", answer.raw_output_contents[1])
        serial = answer.raw_output_contents[1][4 : 4 + length].decode()
        assert serial == f"{model}@1/0/0?source={hash_source(sources[0])}"


async def test_typed_elements(inference, backends):
    """The elements of UINT8 can be typed, too."""
    source = draw(1)[np.newaxis]
    request = oip.ModelInferRequest(model_name="fixed")
    tensor = request.inputs.add(name="source", datatype="UINT8", shape=source.shape)
    tensor.contents.uint_contents.extend(source.ravel().tolist())
    answer = await inference.ModelInfer(request)
    assert np.array_equal(image_of(answer), backends["fixed"].run(Batch(source=source)))
    tensor.contents.uint_contents[5] = 256
    with pytest.raises(grpc.aio.AioRpcError, match="above 255"):
        await inference.ModelInfer(request)


async def test_latents_and_classes(inference, backends):
    """For a model with a latent, seed and index draw latents and classes as in other services."""
    sources = np.stack([draw(number) for number in range(2)])
    seed, index = np.uint64([[7], [7]]), np.uint64([[5], [6]])
    answer = await inference.ModelInfer(ask("drawn", source=sources, seed=seed, index=index))
    batch = Batch(draw_latents(7, 5, 2, 4), draw_classes(7, 5, 2, 10), source=sources)
    assert np.array_equal(image_of(answer), backends["drawn"].run(batch))
    labels = np.int64([[3], [4]])
    answer = await inference.ModelInfer(ask("drawn", source=sources, z=batch.z, class_id=labels))
    batch = Batch(batch.z, labels[:, 0], source=sources)
    assert np.array_equal(image_of(answer), backends["drawn"].run(batch))


async def test_class_without_latent(inference, backends):
    """A model without a latent needs a class, or seed and index to draw it."""
    source = draw(1, 8, 8)[np.newaxis]
    answer = await inference.ModelInfer(ask("labelled", source=source, class_id=np.int64([[2]])))
    expected = backends["labelled"].run(Batch(source=source, class_id=np.int64([2])))
    assert np.array_equal(image_of(answer), expected)
    with pytest.raises(grpc.aio.AioRpcError, match="neither a condition nor seed"):
        await inference.ModelInfer(ask("labelled", source=source))


@pytest.mark.parametrize(
    ("model", "tensors", "told"),
    [
        ("fixed", {"source": draw(1, 6, 9)[np.newaxis]}, r"source is \[N, 6, 8, 3\]"),
        ("free", {"source": draw(1, 6, 8)[np.newaxis]}, "multiples of 4"),
        ("free", {"source": draw(1, 28, 32)[np.newaxis]}, "at most 24 x 32"),
        ("free", {"source": draw(1, 8, 8, 1)[np.newaxis]}, r"source is \[N, -1, -1, 3\]"),
        ("drawn", {"seed": np.uint64([[1]]), "index": np.uint64([[1]])}, "source is required"),
        ("digits", {"source": draw(1)[np.newaxis]}, "no input 'source'"),
    ],
)
async def test_refusals(inference, model, tensors, told):
    """INVALID_ARGUMENT names the fault of a source."""
    with pytest.raises(grpc.aio.AioRpcError, match=told) as caught:
        await inference.ModelInfer(ask(model, **tensors))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_metadata(inference):
    """Free sides are -1, as in Triton's configurations."""
    answer = await inference.ModelMetadata(oip.ModelMetadataRequest(name="double"))
    (source,) = answer.inputs
    assert (source.name, source.datatype, list(source.shape)) == (
        "source",
        "UINT8",
        [-1, -1, -1, 3],
    )
    assert list(answer.outputs[0].shape) == [-1, -1, -1, 3]
    answer = await inference.ModelConfig(oip.ModelConfigRequest(name="drawn"))
    assert [each.name for each in answer.config.input] == ["z", "source", "class_id"]
    assert list(answer.config.input[1].dims) == [6, 8, 3]
