"""Which graph of a bundle answers, and that every answer says so."""

import io

import numpy as np
import pytest
from PIL import Image
from tiny_bundles import write_bundle, write_variant

from imagemint.client import AsyncClient
from imagemint.engine import latents
from imagemint.engine.bundle import read_bundle, variants
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, image_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """`both` holds an int8 variant, `one` none; the processor is one that likes bytes."""
    monkeypatch.setattr(variants, "has_dot_products", lambda: True)
    write_variant(write_bundle(tmp_path, "both"))
    write_bundle(tmp_path, "one")
    return tmp_path


@pytest.mark.parametrize(
    "case",
    [
        ({}, "int8"),
        ({"variant": "reference"}, "fp32"),
        ({"variants": {"both": "fp32"}}, "fp32"),
        ({"variant": "reference", "variants": {"both": "int8"}}, "int8"),
    ],
)
async def test_variant_is_chosen_and_told(serve, repository, scrape, total, case):
    """Left to itself the server takes what was made for its device; settings overrule it."""
    settings, both = case
    app = await serve(repository, **settings)
    async with AsyncClient(app.grpc_address) as client:
        batch = await client.generate("both", 3, seed=1, condition=7)
        assert batch.variant == both
        assert (await client.generate("one", 1)).variant == "fp32"
        (version,) = (await client.model("both")).versions
        assert version.variant == both
    bundle = read_bundle(repository / "both" / "1")
    engine = OnnxBackend(bundle, device="cpu", variant=both)
    assert np.array_equal(batch.image, engine.run(latents(1, 0, 3, 8), np.full(3, 7)))
    samples = await scrape(app.metrics_address)
    told = {"model": "both", "variant": both, "precision": both, "bundle_sha256": bundle.sha256}
    assert total(samples, "imagemint_model_info", **told) == 1


async def test_missing_variant_fails_its_model_alone(serve, repository):
    """A bundle that lacks what was insisted on is refused with the reason."""
    app = await serve(repository, variants={"one": "int8"})
    async with AsyncClient(app.grpc_address) as client:
        (version,) = (await client.model("one")).versions
        assert version.reason == "it has no variant 'int8'; there is fp32"
        assert (await client.generate("both", 1)).variant == "int8"


async def test_pictures_name_their_variant(serve, repository, connect):
    """A PNG in its text and its XMP, JPEG and WebP in their XMP; the serial is as ever."""
    app = await serve(repository)
    images = {"model": "both", "count": 1, "seed": 1, "class_id": 7}
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for name in ("PNG", "JPEG", "WEBP"):
            output = {"format": image_pb2.ImageFormat.Value(f"IMAGE_FORMAT_{name}")}
            answer = await stub.Generate(pb.GenerateRequest(images=images, output=output))
            (picture,) = answer.batch.pictures
            assert b'xmp:CreatorTool="imagemint, variant int8"' in picture
            assert answer.batch.images[0].serial == "both@1/1/0?class=7"
            if name == "PNG":
                text = Image.open(io.BytesIO(picture)).text
                assert text["imagemint:variant"] == "int8"
                assert text["imagemint:serial"] == "both@1/1/0?class=7"


async def test_tensors_name_their_variant(serve, repository, connect):
    """An answer of the Open Inference Protocol has it among its parameters."""
    app = await serve(repository)
    z = grpc_service_pb2.ModelInferRequest.InferInputTensor(name="z", datatype="FP32", shape=[1, 8])
    y = grpc_service_pb2.ModelInferRequest.InferInputTensor(
        name="class_id", datatype="INT64", shape=[1, 1]
    )
    request = grpc_service_pb2.ModelInferRequest(
        model_name="both",
        inputs=[z, y],
        raw_input_contents=[latents(1, 0, 1, 8).tobytes(), np.int64([[7]]).tobytes()],
    )
    async with connect(app) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = await stub.ModelInfer(request)
    assert answer.parameters["variant"].string_param == "int8"
