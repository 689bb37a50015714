"""Tests of Translate with real gRPC and real ONNX files."""

import asyncio
import io
import secrets
import threading

import grpc
import numpy as np
import pytest
from held_backend import WAIT_S
from made_sources import draw, raw, to_file, unpack
from PIL import Image

from imagemint.engine.batch import Batch
from imagemint.engine.sampling import draw_classes, draw_latents
from imagemint.engine.serial import Serial, hash_source
from imagemint.pictures import SERIAL_KEY, TRAINED_ALGORITHMIC_MEDIA
from imagemint.server.access.api_keys import compute_digest
from imagemint.server.images import sources as source_pictures
from imagemint.server.rpc.v1 import translation as translation_service
from imagemint.v1 import image_pb2, translation_service_pb2_grpc
from imagemint.v1 import translation_service_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def decoded(monkeypatch):
    """The files that the server has decoded."""
    files, decode = [], source_pictures.decode

    def record(content, *args):
        files.append(content)
        return decode(content, *args)

    monkeypatch.setattr(source_pictures, "decode", record)
    return files


def encoded(*pictures, mask=b""):
    """Returns a source message of files."""
    return pb.Source(encoded=pb.EncodedSource(pictures=pictures, mask=mask))


def request_for(model, sources, **options):
    """Returns a request with fields of ImageSpec and of TranslateRequest."""
    own = {k: options.pop(k) for k in ("fit", "output", "priority") if k in options}
    images = image_pb2.ImageSpec(model=model, **options)
    return pb.TranslateRequest(images=images, sources=sources, **own)


async def test_pixels_of_the_engine(translation, backends):
    """A raw source and a file with the same pixels give the result of the engine."""
    source = draw(1)
    expected = backends["fixed"].run(Batch(source=source[np.newaxis]))[0]
    encoded = pb.Source(encoded=pb.EncodedSource(pictures=[to_file(source)]))
    answer = await translation.Translate(request_for("fixed", [raw(source), encoded]))
    batch = answer.batch
    assert [np.array_equal(unpack(each), expected) for each in batch.translations] == [True, True]
    assert {each.image.serial for each in batch.translations} == {
        f"fixed@1/0/0?source={hash_source(source)}"
    }
    assert (batch.model, batch.version, batch.HasField("seed")) == ("fixed", "1", False)
    assert [each.image.index for each in batch.translations] == [0, 1]


async def test_latent_and_class_by_index(translation, backends):
    """Sources take the latents and classes of the indices from first_index on."""
    sources = [draw(number) for number in range(3)]
    request = request_for("drawn", map(raw, sources), seed=7, first_index=5)
    batch = (await translation.Translate(request)).batch
    classes = draw_classes(7, 5, 3, 10)
    expected = backends["drawn"].run(
        Batch(draw_latents(7, 5, 3, 4), classes, source=np.stack(sources))
    )
    assert np.array_equal([unpack(each) for each in batch.translations], expected)
    assert [each.image.class_id for each in batch.translations] == classes.tolist()
    for at, each in enumerate(batch.translations):
        serial = Serial.parse(each.image.serial)
        assert (serial.seed, serial.index) == (7, 5 + at)
        assert (serial.class_id, serial.source) == (classes[at], hash_source(sources[at]))


async def test_bytes_under_batching(translation):
    """Many callers with sources of several sizes get the bytes that each source gives alone."""
    sizes = [(4, 4), (8, 12), (24, 32), (60, 44)]
    sources = [draw(at, *sizes[at % 4]) for at in range(24)]
    alone = {}
    for at, source in enumerate(sources):
        batch = (await translation.Translate(request_for("free", [raw(source)]))).batch
        alone[at] = batch.translations[0].picture
    together = await asyncio.gather(
        *(
            translation.Translate(request_for("free", [raw(sources[at]), raw(sources[-1 - at])]))
            for at in range(24)
        )
    )
    for at, answer in enumerate(together):
        first, second = answer.batch.translations
        assert first.picture == alone[at]
        assert second.picture == alone[23 - at]


async def test_tiles_equal_the_whole(translation, backends):
    """Each pixel of a source in tiles equals that of one pass over the whole source."""
    for height, width in ((60, 100), (24, 36), (28, 32), (100, 28)):
        source = draw(height, height, width)
        request = request_for("free", [raw(source)])
        tiled = unpack((await translation.Translate(request)).batch.translations[0])
        whole = backends["free"].run(Batch(source=source[np.newaxis]))[0]
        assert np.abs(tiled.astype(int) - whole).max() <= 1


async def test_classes_of_tiles(translation, backends):
    """Each tile of a source has the class of its source, also in a batch with other sources."""
    sources = [draw(1, 40, 24), draw(2, 16, 16), draw(3, 20, 20)]
    request = request_for(
        "labelled", map(raw, sources), class_per_image=image_pb2.ClassPerImage(class_ids=[3, 5, 7])
    )
    batch = (await translation.Translate(request)).batch
    for source, each, label in zip(sources, batch.translations, [3, 5, 7], strict=True):
        whole = backends["labelled"].run(
            Batch(source=source[np.newaxis], class_id=np.int64([label]))
        )
        assert np.abs(unpack(each).astype(int) - whole[0]).max() <= 1
        assert Serial.parse(each.image.serial).class_id == label


async def test_scaled_result(translation):
    """The result of an upscaling model is larger than its source."""
    batch = (await translation.Translate(request_for("double", [raw(draw(1, 8, 12))]))).batch
    shape = batch.translations[0].shape
    assert (shape.height, shape.width, shape.channels) == (16, 24, 3)
    source = batch.translations[0].source
    assert (source.height, source.width, source.channels) == (8, 12, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_encoded_result_names_its_origin(translation, kind):
    """An encoded result carries its serial and the IPTC source type."""
    output = image_pb2.OutputSpec(format=f"IMAGE_FORMAT_{kind}")
    request = request_for("free", [raw(draw(1, 60, 44))], output=output)
    (each,) = (await translation.Translate(request)).batch.translations
    picture = Image.open(io.BytesIO(each.picture))
    assert (picture.format, picture.size) == (kind, (44, 60))
    assert each.image.serial.encode() in each.picture
    assert TRAINED_ALGORITHMIC_MEDIA.encode() in each.picture
    if kind == "PNG":
        assert picture.text[SERIAL_KEY] == each.image.serial


async def test_frames_and_mask(translation, backends):
    """Frames and mask can be one raw source, or separate files."""
    source = draw(1, depth=10)
    source[..., -1] = np.where(source[..., -1] < 128, 0, 255)
    frames = [to_file(source[..., at : at + 3]) for at in (0, 3, 6)]
    encoded = pb.EncodedSource(pictures=frames, mask=to_file(source[..., 9:]))
    request = request_for("sequence", [raw(source), pb.Source(encoded=encoded)])
    batch = (await translation.Translate(request)).batch
    expected = backends["sequence"].run(Batch(source=source[np.newaxis]))[0]
    assert all(np.array_equal(unpack(each), expected) for each in batch.translations)


async def test_gray_and_colour(translation, backends):
    """A gray model accepts colour pictures, and a colour model accepts gray ones."""
    colour, gray = draw(1), draw(2, depth=1)
    sources = [pb.Source(encoded=pb.EncodedSource(pictures=[to_file(colour)]))]
    (each,) = (await translation.Translate(request_for("gray", sources))).batch.translations
    luma = np.asarray(Image.fromarray(colour).convert("L"))[np.newaxis, ..., np.newaxis]
    assert np.array_equal(unpack(each), backends["gray"].run(Batch(source=luma))[0])
    sources = [pb.Source(encoded=pb.EncodedSource(pictures=[to_file(gray)]))]
    (each,) = (await translation.Translate(request_for("fixed", sources))).batch.translations
    rgb = np.repeat(gray, 3, axis=-1)[np.newaxis]
    assert np.array_equal(unpack(each), backends["fixed"].run(Batch(source=rgb))[0])


@pytest.mark.parametrize(
    ("source", "options", "fields"),
    [
        (("fixed", (6, 9)), {}, {"sources[0]"}),
        (("free", (6, 8)), {}, {"sources[0]"}),
        (("double", (28, 32)), {}, {"sources[0]"}),
        (("free", (204, 200)), {}, {"sources[0]"}),
        (("double", (8, 8)), {"count": 2}, {"images.count"}),
        (("fixed", (6, 8)), {"class_label": "x", "fit": 9}, {"fit"}),
        (("fixed", (6, 8)), {"output": image_pb2.OutputSpec(format=9)}, {"output.format"}),
        (("drawn", (6, 8)), {"class_id": 10, "priority": 7}, {"images.class_id", "priority"}),
        (("fixed", (6, 8)), {"filter": image_pb2.ImageFilter()}, {"images.filter"}),
        (("fixed", (6, 8)), {"latents": image_pb2.Latents(values=[1])}, {"images.latents"}),
    ],
)
async def test_wrong_fields(translation, details_of, source, options, fields):
    """INVALID_ARGUMENT names the wrong fields."""
    model, size = source
    request = request_for(model, [raw(draw(1, *size))], **options)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await translation.Translate(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert {violation.field for violation in violations} == fields


async def test_wrong_sources(translation, details_of):
    """The error names every wrong part of a source, before any picture is read."""
    bad = raw(draw(1))
    bad.raw.pixels += b"x"
    sources = [
        pb.Source(),
        bad,
        raw(draw(1)),
        pb.Source(encoded=pb.EncodedSource(pictures=[b"x"] * 2)),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await translation.Translate(request_for("sequence", sources))
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == [
        "sources[0]",
        "sources[1].raw.pixels",
        "sources[2].raw.shape.channels",
        "sources[3].encoded.pictures",
        "sources[3].encoded.mask",
    ]
    whys = [violation.description for violation in violations]
    assert whys[2] == "3; the model takes 10: 3 of each of 3 frames and 1 of the mask"
    assert whys[3] == "2 pictures; the model takes 3 for each source"


async def test_every_source_is_checked(translation, details_of):
    """A source of wrong channels is refused, however many right ones are before it."""
    sources = [*[raw(draw(1))] * 64, raw(draw(1, depth=1)), pb.Source()]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await translation.Translate(request_for("fixed", sources))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(caught.value)["BadRequest"].field_violations
    expected = ["sources[64].raw.shape.channels", "sources[65]"]
    assert [violation.field for violation in violations] == expected


async def test_many_wrong_sources(translation, details_of):
    """The error names the first few, so that the status has room for its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await translation.Translate(request_for("fixed", [pb.Source()] * 1000))
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == [
        f"sources[{number}]" for number in range(8)
    ]


async def test_wrong_pictures(translation, details_of):
    """The error names a picture that cannot be decoded, or whose size differs from the first."""
    good, other = to_file(draw(1)), to_file(draw(1, 7, 8))
    cut = to_file(draw(3, 6, 8))[:60]
    sources = [
        pb.Source(encoded=pb.EncodedSource(pictures=[good, cut, good], mask=good)),
        pb.Source(encoded=pb.EncodedSource(pictures=[good, good, other], mask=good)),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await translation.Translate(request_for("sequence", sources))
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == [
        "sources[0].encoded.pictures[1]",
        "sources[1].encoded.pictures[2]",
    ]


async def test_too_many_pixels(translation):
    """All sources of a request together have a limit."""
    sources = [raw(draw(at, 100, 100)) for at in range(5)]
    with pytest.raises(grpc.aio.AioRpcError, match="50,000 pixels in all"):
        await translation.Translate(request_for("free", sources))


@pytest.mark.parametrize("fit", ["REFUSE", "CROP", "STRETCH"])
async def test_small_files_of_many_pixels(translation, details_of, decoded, fit):
    """The pixels of all files count as they are decoded, and before that."""
    file = to_file(np.zeros((100, 100, 3), np.uint8), "WEBP", lossless=True)
    assert len(file) < 60
    request = request_for("fixed", [encoded(file)] * 600, fit=f"SOURCE_FIT_{fit}")
    with pytest.raises(grpc.aio.AioRpcError, match="more than 40,000 pixels") as caught:
        await translation.Translate(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == ["sources"]
    assert not decoded
    await translation.Translate(request_for("fixed", [encoded(file)] * 4, fit="SOURCE_FIT_CROP"))
    assert len(decoded) == 4


async def test_memory_is_reserved_before_decoding(translating_app, translation, monkeypatch):
    """The pixels of the largest source count, not those that the model receives."""
    room = translating_app._rpc.services.translation._decoding
    held, decode = [], source_pictures.decode

    def record(*args):
        held.append(room.held_bytes)
        return decode(*args)

    monkeypatch.setattr(source_pictures, "decode", record)
    large, small = (to_file(np.zeros((side, 100, 3), np.uint8)) for side in (200, 50))
    sources = [encoded(large), encoded(small)]
    await translation.Translate(request_for("fixed", sources, fit="SOURCE_FIT_STRETCH"))
    assert held == [20 * 200 * 100] * 2


async def test_pixels_of_frames_and_masks(translation, decoded):
    """Each frame of a source counts, and so does its mask."""
    file = to_file(np.zeros((100, 120, 3), np.uint8))
    source = encoded(file, file, file, mask=file)
    with pytest.raises(grpc.aio.AioRpcError, match="frames and masks included"):
        await translation.Translate(request_for("sequence", [source], fit="SOURCE_FIT_CROP"))
    assert not decoded


@pytest.mark.asyncio(loop_scope="module")  # the loop of `serve`
async def test_call_over_the_rate_decodes_nothing(serve, translators, connect, tmp_path, decoded):
    """The rate is charged before the pictures are decoded, also of a call that fails then."""
    key = secrets.token_hex()
    keys = tmp_path / "keys.toml"
    limits = "rate_images_per_s = 0.001\nburst_images = 4"
    keys.write_text(f'[[key]]\nname = "slow"\nsha256 = "{compute_digest(key)}"\n{limits}\n')
    app = await serve(translators, api_keys=keys)
    metadata = (("x-api-key", key),)
    good, cut = encoded(to_file(draw(1))), encoded(to_file(draw(2))[:60])
    async with connect(app) as channel:
        stub = translation_service_pb2_grpc.TranslationServiceStub(channel)
        await stub.Translate(request_for("fixed", [good, good]), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError, match="a damaged picture"):
            await stub.Translate(request_for("fixed", [good, cut]), metadata=metadata)
        assert len(decoded) == 4
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Translate(request_for("fixed", [good]), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(decoded) == 4


async def test_cancelled_call_stops_decoding(translation, decoded, monkeypatch):
    """The thread decodes no further source after the call has ended."""
    decoding, finished, checks = threading.Event(), threading.Event(), []

    def load(*args):
        checks.append(args[-1])
        try:
            return source_pictures.load_sources(*args)
        finally:
            finished.set()

    decode = source_pictures.decode

    def wait_for_the_end(*args):
        decoding.set()
        assert checks[0].__self__.wait(WAIT_S)
        return decode(*args)

    monkeypatch.setattr(translation_service, "load_sources", load)
    monkeypatch.setattr(source_pictures, "decode", wait_for_the_end)
    call = translation.Translate(request_for("fixed", [encoded(to_file(draw(1)))] * 8))
    assert await asyncio.to_thread(decoding.wait, WAIT_S)
    call.cancel()
    assert await asyncio.to_thread(finished.wait, WAIT_S)
    assert len(decoded) == 1


async def test_results_of_too_many_pixels(translation):
    """The error of a source below the limit says that its result is above it, and why."""
    request = request_for("double", [raw(draw(1, 120, 120))])
    why = "the results have 57,600 pixels in all, 2 times the height and width of their sources"
    with pytest.raises(grpc.aio.AioRpcError, match=why):
        await translation.Translate(request)


async def test_result_too_long_for_its_encoding(translation):
    """A WebP has a longest side; the error says so, and which encoding has none."""
    output = image_pb2.OutputSpec(format=image_pb2.IMAGE_FORMAT_WEBP)
    source = raw(np.zeros((4, 8_192, 3), np.uint8))
    why = "16384 x 8 pixels; a side of a WEBP has at most 16,383. Ask for PNG"
    with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
        await translation.Translate(request_for("double", [source], output=output))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_preconditions(translation, generation_of):
    """A model without a source does not translate, and a translator does not generate."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await translation.Translate(request_for("digits", [raw(draw(1))]))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "takes no source: call Generate" in caught.value.details()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generation_of("fixed")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "translates a source: call Translate" in caught.value.details()


async def test_metrics_by_method(translating_app, translation, scrape, total):
    """Calls, images and encodings of Translate are counted."""
    before = await scrape(translating_app.metrics_address)
    await translation.Translate(request_for("free", [raw(draw(1, 60, 44))] * 2))
    after = await scrape(translating_app.metrics_address)

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    method = {"method": "Translate", "model": "free", "code": "OK"}
    assert grown("imagemint_requests_total", **method) == 1
    # Each source has 4 x 2 tiles.
    assert grown("imagemint_images_total", model="free") == 16


async def test_fits(translation, backends):
    """On request, sources of other sizes are cropped, padded with white, or scaled."""
    source = draw(1, 10, 10)
    for name, expected in (
        (
            "free",
            {
                "CROP": source[1:9, 1:9],
                "PAD": np.pad(source, ((1, 1), (1, 1), (0, 0)), constant_values=255),
            },
        ),
    ):
        for fit, fitted in expected.items():
            request = request_for(name, [raw(source)], fit=f"SOURCE_FIT_{fit}")
            (each,) = (await translation.Translate(request)).batch.translations
            whole = backends[name].run(Batch(source=np.ascontiguousarray(fitted)[np.newaxis]))[0]
            assert np.array_equal(unpack(each), whole)
            assert Serial.parse(each.image.serial).source == hash_source(fitted)
    for fit in ("CROP", "PAD", "STRETCH"):
        request = request_for("fixed", [raw(source)], fit=f"SOURCE_FIT_{fit}")
        (each,) = (await translation.Translate(request)).batch.translations
        assert (each.source.height, each.source.width) == (6, 8)
