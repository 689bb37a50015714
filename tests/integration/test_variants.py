"""Tests of the variant that answers, which every response names."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image
from tiny_bundles import write_bundle, write_variant

from imagemint.client import AsyncClient, FailedPrecondition, cli
from imagemint.client.sources import RemoteModel
from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle, variants
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, image_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Models `both` with an int8 variant and `one` without, on a processor with dot products."""
    monkeypatch.setattr(variants, "has_dot_products", lambda: True)
    write_variant(write_bundle(tmp_path, "both"))
    write_bundle(tmp_path, "one")
    return tmp_path


@pytest.mark.parametrize(
    "case",
    [
        ({}, "fp32"),
        ({"variant": "auto"}, "int8"),
        ({"variant": "auto", "variants": {"both": "fp32"}}, "fp32"),
        ({"variants": {"both": "int8"}}, "int8"),
    ],
)
async def test_variant_is_chosen_and_returned(serve, repository, scrape, total, case):
    """The server runs the reference by default, and settings choose another variant."""
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
    assert np.array_equal(batch.image, engine.run(Batch(draw_latents(1, 0, 3, 8), np.full(3, 7))))
    samples = await scrape(app.metrics_address)
    told = {"model": "both", "variant": both, "precision": both, "bundle_sha256": bundle.sha256}
    assert total(samples, "imagemint_model_info", **told) == 1


async def test_missing_variant_fails_only_its_model(serve, repository):
    """A bundle without the requested variant is refused with the reason."""
    app = await serve(repository, variant="auto", variants={"one": "int8"})
    async with AsyncClient(app.grpc_address) as client:
        (version,) = (await client.model("one")).versions
        assert version.reason == "it has no variant 'int8'; there is fp32"
        assert (await client.generate("both", 1)).variant == "int8"


async def test_pictures_have_their_variant(serve, repository, connect):
    """PNG has it as text, and all formats have it in XMP, as the serial does."""
    app = await serve(repository, variant="auto")
    images = {"model": "both", "count": 1, "seed": 1, "class_id": 7}
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for name in ("PNG", "JPEG", "WEBP"):
            output = {"format": image_pb2.ImageFormat.Value(f"IMAGE_FORMAT_{name}")}
            answer = await stub.Generate(pb.GenerateRequest(images=images, output=output))
            (picture,) = answer.batch.pictures
            assert b'xmp:CreatorTool="imagemint, variant int8"' in picture
            assert b"<rdf:li>both@1+int8/1/0?class=7</rdf:li>" in picture
            assert answer.batch.images[0].serial == "both@1+int8/1/0?class=7"
            if name == "PNG":
                text = Image.open(io.BytesIO(picture)).text
                assert text["imagemint:variant"] == "int8"
                assert text["imagemint:serial"] == "both@1+int8/1/0?class=7"


async def test_tensors_have_their_variant(serve, repository, connect):
    """A response of the Open Inference Protocol has it as a parameter and in its serials."""
    app = await serve(repository, variant="auto")
    values = {"seed": np.uint64(1), "index": np.uint64(0), "class_id": np.int64(7)}
    request = grpc_service_pb2.ModelInferRequest(
        model_name="both",
        inputs=[
            {"name": name, "datatype": value.dtype.name.upper(), "shape": [1, 1]}
            for name, value in values.items()
        ],
        outputs=[{"name": "serial"}],
        raw_input_contents=[value.tobytes() for value in values.values()],
    )
    async with connect(app) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = await stub.ModelInfer(request)
    assert answer.parameters["variant"].string_param == "int8"
    assert answer.raw_output_contents[0].endswith(b"both@1+int8/1/0?class=7")


async def test_serial_needs_its_variant(serve, repository):
    """A server of the serial's variant repeats its bytes, and any other one refuses."""
    apps = {"fp32": await serve(repository), "int8": await serve(repository, variant="auto")}
    spelled = {"fp32": "both@1/5/2?class=7", "int8": "both@1+int8/5/2?class=7"}
    named = {"fp32": "reference", "int8": "int8"}
    made = {}
    for runs, other in (("fp32", "int8"), ("int8", "fp32")):
        async with AsyncClient(apps[runs].grpc_address) as client:
            batch = await client.generate("both", 1, seed=5, first_index=2, condition=7)
            assert batch.serials == (spelled[runs],)
            again = await client.mint(spelled[runs])
            assert (again.serials, again.variant) == (batch.serials, runs)
            assert np.array_equal(again.image, batch.image)
            made[runs] = batch.image
            with pytest.raises(FailedPrecondition, match="not") as caught:
                await client.mint([spelled[other], spelled[other]])
            assert caught.value.reason == "VARIANT_MISMATCH"
            asked = {"running": runs, "asked": named[other]}
            assert asked.items() <= caught.value.metadata.items()
    assert not np.array_equal(made["fp32"], made["int8"])


async def test_evaluation_keeps_its_variant(serve, repository):
    """A source of `imagemint evaluate` requires the variant that ran when it was opened."""
    app = await serve(repository, variant="auto")

    def drawn():
        source = RemoteModel(f"{app.grpc_address}/both")
        try:
            images, _ = source.draw(1, 0, 3)
            source._variant = "fp32"  # as if the server had restarted with another setting
            with pytest.raises(FailedPrecondition, match="runs variant 'int8'"):
                source.draw(1, 0, 3)
        finally:
            source.close()
        return images

    engine = OnnxBackend(read_bundle(repository / "both" / "1"), device="cpu", variant="int8")
    expected = engine.run(Batch(draw_latents(1, 0, 3, 8), np.arange(3)))
    assert np.array_equal(await asyncio.to_thread(drawn), expected)


async def test_generate_command_accepts_serials_of_variants(serve, repository, tmp_path, capsys):
    """`imagemint generate` accepts a serial or `--variant` and prints the server's error."""
    app = await serve(repository, variant="auto")

    async def generate(name, *arguments):
        line = ("generate", "--server", app.grpc_address, *arguments, "--out")
        return await asyncio.to_thread(cli.main, [*line, str(tmp_path / f"{name}.npz")])

    assert await generate("a", "--serial", "both@1+int8/5/2?class=7") == 0
    one = ("--model", "both", "--seed", "5", "--first-index", "2", "--class", "7")
    assert await generate("b", *one, "--variant", "int8") == 0
    arrays = [np.load(tmp_path / f"{name}.npz") for name in "ab"]
    assert [array["serial"].tolist() for array in arrays] == [["both@1+int8/5/2?class=7"]] * 2
    assert np.array_equal(arrays[0]["image"], arrays[1]["image"])
    capsys.readouterr()
    for refused in (("--serial", "both@1/5/2?class=7"), (*one, "--variant", "reference")):
        assert await generate("c", *refused) != 0
        assert "runs variant 'int8' of both@1, not 'reference'" in capsys.readouterr().err
    assert not (tmp_path / "c.npz").exists()
