"""Tests of responses besides pixels: formats, sheets, names, times and the list of models."""

import io

import numpy as np
import pytest
from PIL import Image

from imagemint.engine.bundle import read_bundle
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2, model_service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPEC = {"model": "digits", "count": 7, "seed": 5, "first_index": 3, "class_cycle": {}}


def decode(picture):
    """Returns the decoded picture as [H, W] or [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(picture)))


async def test_response_has_its_provenance(generation, models):
    """It has model, version, digest, seed and shape, and index, class and serial per image."""
    batch = (await generation.Generate(pb.GenerateRequest(images=SPEC))).batch
    assert (batch.model, batch.version, batch.seed) == ("digits", "1", 5)
    assert batch.bundle_sha256 == read_bundle(models / "digits/1").sha256
    assert batch.format == image_pb2.IMAGE_FORMAT_RAW
    assert batch.layout == image_pb2.IMAGE_LAYOUT_INDIVIDUAL
    assert (batch.shape.height, batch.shape.width, batch.shape.channels) == (4, 6, 1)
    assert [len(picture) for picture in batch.pictures] == [24] * 7
    told = [(image.index, image.class_id, image.serial) for image in batch.images]
    assert told == [(i, i, f"digits@1/5/{i}?class={i}") for i in range(3, 10)]


async def test_unconditional_response_has_no_class(generation):
    """The class is absent and not zero."""
    images = {"model": "plain", "count": 1, "seed": 1}
    (image,) = (await generation.Generate(pb.GenerateRequest(images=images))).batch.images
    assert not image.HasField("class_id")
    assert image.serial == "plain@1/1/0"


async def test_response_has_times(generation):
    """Every part of the time is set, and inference and encoding are positive."""
    png = {"format": image_pb2.IMAGE_FORMAT_PNG}
    timing = (await generation.Generate(pb.GenerateRequest(images=SPEC, output=png))).timing
    parts = (timing.queue, timing.batch, timing.inference, timing.encode)
    assert all(part.ToNanoseconds() >= 0 for part in parts)
    assert timing.inference.ToNanoseconds() > 0
    assert timing.encode.ToNanoseconds() > 0


@pytest.mark.parametrize(
    ("picture_format", "quality"),
    [(image_pb2.IMAGE_FORMAT_PNG, None), (image_pb2.IMAGE_FORMAT_WEBP, 100)],
)
async def test_lossless_formats_have_the_raw_pixels(generation, picture_format, quality):
    """Encoded pictures decode to the raw ones, in a response and in a stream."""
    raw = (await generation.Generate(pb.GenerateRequest(images=SPEC))).batch.pictures
    output = image_pb2.OutputSpec(format=picture_format, quality=quality)
    whole = (await generation.Generate(pb.GenerateRequest(images=SPEC, output=output))).batch
    assert whole.format == picture_format
    stream = generation.StreamGenerate(
        pb.StreamGenerateRequest(images=SPEC, output=output, chunk_size=3)
    )
    streamed = [picture async for chunk in stream for picture in chunk.batch.pictures]
    for plain, picture, other in zip(raw, whole.pictures, streamed, strict=True):
        decoded = decode(picture).reshape(4, 6, -1)[..., :1]
        assert decoded.tobytes() == plain
        assert other == picture


async def test_jpeg_is_similar_to_the_raw_pixels(generation):
    """The lossy picture has the same size and similar pixels."""
    images = SPEC | {"model": "plain", "class_cycle": None}
    raw = (await generation.Generate(pb.GenerateRequest(images=images))).batch.pictures
    output = {"format": image_pb2.IMAGE_FORMAT_JPEG, "quality": 100}
    batch = (await generation.Generate(pb.GenerateRequest(images=images, output=output))).batch
    assert decode(batch.pictures[0]).shape == (5, 3, 3)
    plain = np.frombuffer(raw[0], np.uint8).reshape(5, 3, 3)
    gray = np.abs(decode(batch.pictures[0]).mean(axis=2) - plain.mean(axis=2))
    assert gray.mean() < 25


@pytest.mark.parametrize(
    ("columns", "across", "down"), [(None, 3, 3), (7, 7, 1), (1, 1, 7), (4, 4, 2)]
)
async def test_sheet_has_all_images(generation, columns, across, down):
    """Images fill the rows, and the rest is black. The response has each serial."""
    raw = (await generation.Generate(pb.GenerateRequest(images=SPEC))).batch.pictures
    request = pb.GenerateRequest(
        images=SPEC,
        output={"format": image_pb2.IMAGE_FORMAT_PNG},
        layout=image_pb2.IMAGE_LAYOUT_SHEET,
        columns=columns,
    )
    batch = (await generation.Generate(request)).batch
    (sheet,) = (decode(picture) for picture in batch.pictures)
    assert batch.layout == image_pb2.IMAGE_LAYOUT_SHEET
    assert (batch.shape.height, batch.shape.width) == sheet.shape == (4 * down, 6 * across)
    assert [image.index for image in batch.images] == list(range(3, 10))
    for place in range(across * down):
        row, column = divmod(place, across)
        tile = sheet[4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        assert tile.tobytes() == (raw[place] if place < 7 else bytes(24))


async def test_models_are_listed_in_order(model_service, models):
    """Models are sorted by name, with manifest, digest, provider and limits."""
    answer = await model_service.ListModels(model_service_pb2.ListModelsRequest())
    assert [model.name for model in answer.models] == [
        "bounded",
        "digits",
        "people",
        "plain",
        "styled",
    ]
    assert answer.next_page_token == ""
    (digits,) = (model for model in answer.models if model.name == "digits")
    assert digits.default_version == "1"
    (version,) = digits.versions
    assert version.state == model_service_pb2.MODEL_STATE_READY
    assert version.bundle_sha256 == read_bundle(models / "digits/1").sha256
    assert version.execution_provider == "CPUExecutionProvider"
    assert list(version.manifest.class_labels) == list("0123456789")
    assert digits.limits.max_images_per_request == 1_024
    assert digits.limits.default_chunk_size == 256
    assert digits.limits.max_queue_images == 8_192
    assert digits.limits.max_request_bytes == 4 * 2**20
    assert digits.limits.max_response_bytes == 3 * 2**20
    assert digits.limits.max_source_pixels == 2**24
    one = await model_service.GetModel(model_service_pb2.GetModelRequest(model="digits"))
    assert one.model == digits


async def test_models_are_listed_in_pages(model_service):
    """Each model is listed once for any page size."""
    for size in (1, 3, 4, 5_000):
        names, token = [], None
        while token != "":
            page = await model_service.ListModels(
                model_service_pb2.ListModelsRequest(page_size=size, page_token=token)
            )
            assert len(page.models) <= size
            names += [model.name for model in page.models]
            token = page.next_page_token
        assert names == ["bounded", "digits", "people", "plain", "styled"]
