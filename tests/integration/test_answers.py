"""What an answer holds besides pixels: formats, sheets, names, times, and the catalogue."""

import io

import numpy as np
import pytest
from PIL import Image

from imagemint.engine.bundle import read_bundle
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2, model_service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPEC = {"model": "digits", "count": 7, "seed": 5, "first_index": 3, "class_cycle": {}}


def pixels(picture):
    """The decoded picture as [H, W] or [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(picture)))


async def test_answer_names_its_origin(generation, models):
    """Model, version, digest, seed, shape; index, class and serial of each image."""
    batch = (await generation.Generate(pb.GenerateRequest(images=SPEC))).batch
    assert (batch.model, batch.version, batch.seed) == ("digits", "1", 5)
    assert batch.bundle_sha256 == read_bundle(models / "digits/1").sha256
    assert batch.format == image_pb2.IMAGE_FORMAT_RAW
    assert batch.layout == image_pb2.IMAGE_LAYOUT_INDIVIDUAL
    assert (batch.shape.height, batch.shape.width, batch.shape.channels) == (4, 6, 1)
    assert [len(picture) for picture in batch.pictures] == [24] * 7
    told = [(image.index, image.class_id, image.serial) for image in batch.images]
    assert told == [(i, i, f"digits@1/5/{i}?class={i}") for i in range(3, 10)]


async def test_unconditional_answer_has_no_class(generation):
    """Absent, not zero."""
    images = {"model": "plain", "count": 1, "seed": 1}
    (image,) = (await generation.Generate(pb.GenerateRequest(images=images))).batch.images
    assert not image.HasField("class_id")
    assert image.serial == "plain@1/1/0"


async def test_time_is_told(generation):
    """Every part is there; computing and encoding take some."""
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
async def test_lossless_formats_hold_the_pixels(generation, picture_format, quality):
    """Encoded pictures decode to the raw ones, in an answer and in a stream."""
    raw = (await generation.Generate(pb.GenerateRequest(images=SPEC))).batch.pictures
    output = image_pb2.OutputSpec(format=picture_format, quality=quality)
    whole = (await generation.Generate(pb.GenerateRequest(images=SPEC, output=output))).batch
    assert whole.format == picture_format
    stream = generation.StreamGenerate(
        pb.StreamGenerateRequest(images=SPEC, output=output, chunk_size=3)
    )
    streamed = [picture async for chunk in stream for picture in chunk.batch.pictures]
    for plain, picture, other in zip(raw, whole.pictures, streamed, strict=True):
        decoded = pixels(picture).reshape(4, 6, -1)[..., :1]
        assert decoded.tobytes() == plain
        assert other == picture


async def test_jpeg_comes_close(generation):
    """A lossy picture of the same size that still looks alike."""
    images = SPEC | {"model": "plain", "class_cycle": None}
    raw = (await generation.Generate(pb.GenerateRequest(images=images))).batch.pictures
    output = {"format": image_pb2.IMAGE_FORMAT_JPEG, "quality": 100}
    batch = (await generation.Generate(pb.GenerateRequest(images=images, output=output))).batch
    assert pixels(batch.pictures[0]).shape == (5, 3, 3)
    plain = np.frombuffer(raw[0], np.uint8).reshape(5, 3, 3)
    gray = np.abs(pixels(batch.pictures[0]).mean(axis=2) - plain.mean(axis=2))
    assert gray.mean() < 25


@pytest.mark.parametrize(
    ("columns", "across", "down"), [(None, 3, 3), (7, 7, 1), (1, 1, 7), (4, 4, 2)]
)
async def test_sheet_shows_all_images(generation, columns, across, down):
    """Row by row, black where none is left; the answer still names each image."""
    raw = (await generation.Generate(pb.GenerateRequest(images=SPEC))).batch.pictures
    request = pb.GenerateRequest(
        images=SPEC,
        output={"format": image_pb2.IMAGE_FORMAT_PNG},
        layout=image_pb2.IMAGE_LAYOUT_SHEET,
        columns=columns,
    )
    batch = (await generation.Generate(request)).batch
    (sheet,) = (pixels(picture) for picture in batch.pictures)
    assert batch.layout == image_pb2.IMAGE_LAYOUT_SHEET
    assert (batch.shape.height, batch.shape.width) == sheet.shape == (4 * down, 6 * across)
    assert [image.index for image in batch.images] == list(range(3, 10))
    for place in range(across * down):
        row, column = divmod(place, across)
        tile = sheet[4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        assert tile.tobytes() == (raw[place] if place < 7 else bytes(24))


async def test_catalogue_is_in_order(model_service, models):
    """Models by name, with manifest, digest, provider and limits."""
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
    one = await model_service.GetModel(model_service_pb2.GetModelRequest(model="digits"))
    assert one.model == digits


async def test_catalogue_comes_in_pages(model_service):
    """Each model once, whatever the size of a page."""
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
