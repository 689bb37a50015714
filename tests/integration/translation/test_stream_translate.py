"""Tests of StreamTranslate: order, numbering, and the end of a stream.

Flow control is that of `RequestStream`, which has its own tests.
"""

import asyncio

import grpc
import numpy as np
import pytest
from made_sources import draw, raw, unpack

from imagemint.engine.batch import Batch
from imagemint.engine.sampling import draw_latents
from imagemint.engine.serial import Serial
from imagemint.v1 import image_pb2, translation_service_pb2_grpc
from imagemint.v1 import translation_service_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="session")


def first_message(model, **images):
    """Returns the first message, which has the options of the translation."""
    return pb.StreamTranslateRequest(images=image_pb2.ImageSpec(model=model, **images))


async def test_answers_in_order(translation, backends):
    """Each message gets its answer, with consecutive indices and their latents."""
    sources = [draw(number) for number in range(9)]
    call = translation.StreamTranslate()
    await call.write(first_message("drawn", seed=3, first_index=10, class_id=4))
    for start, stop in ((0, 1), (1, 5), (5, 9)):
        await call.write(pb.StreamTranslateRequest(sources=map(raw, sources[start:stop])))
    await call.done_writing()
    answers = [answer async for answer in call]
    assert [len(answer.batch.translations) for answer in answers] == [1, 4, 4]
    found = [each for answer in answers for each in answer.batch.translations]
    expected = backends["drawn"].run(
        Batch(draw_latents(3, 10, 9, 4), np.full(9, 4), source=np.stack(sources))
    )
    assert np.array_equal([unpack(each) for each in found], expected)
    assert [each.image.index for each in found] == list(range(10, 19))
    assert {answer.batch.seed for answer in answers} == {3}


async def test_no_source_follows_the_last_index(translation):
    """A further source is refused. It does not get the last index again."""
    call = translation.StreamTranslate()
    await call.write(first_message("drawn", seed=3, first_index=2**64 - 1))
    for number in range(2):
        await call.write(pb.StreamTranslateRequest(sources=[raw(draw(number))]))
    await call.done_writing()
    answer = await call.read()
    assert [each.image.index for each in answer.batch.translations] == [2**64 - 1]
    with pytest.raises(grpc.aio.AioRpcError, match=r"images\.first_index") as failed:
        await call.read()
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_one_seed_for_the_stream(translation):
    """All answers of a stream without a seed have the same seed, which the server chooses."""
    call = translation.StreamTranslate()
    await call.write(first_message("drawn"))
    for number in range(3):
        await call.write(pb.StreamTranslateRequest(sources=[raw(draw(number))]))
    await call.done_writing()
    found = [answer.batch.translations[0].image async for answer in call]
    serials = [Serial.parse(each.serial) for each in found]
    assert len({serial.seed for serial in serials}) == 1
    assert [serial.index for serial in serials] == [0, 1, 2]


@pytest.mark.parametrize(
    ("first", "field"),
    [
        (pb.StreamTranslateRequest(), "images.model"),
        (first_message("free", count=1), "images.count"),
        (
            pb.StreamTranslateRequest(
                images=image_pb2.ImageSpec(model="free"), sources=[pb.Source()]
            ),
            "sources",
        ),
        (first_message("drawn", latents=image_pb2.Latents()), "images.latents"),
    ],
)
async def test_wrong_first_message(translation, details_of, first, field):
    """The first message must have options, and no sources."""
    call = translation.StreamTranslate()
    await call.write(first)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == [field]


async def test_error_ends_the_stream(translation, details_of):
    """Answers to the messages before the wrong one arrive, followed by the error."""
    call = translation.StreamTranslate()
    await call.write(first_message("fixed"))
    await call.write(pb.StreamTranslateRequest(sources=[raw(draw(1))]))
    assert len((await call.read()).batch.translations) == 1
    await call.write(first_message("fixed"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    violations = details_of(caught.value)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == ["images"]


async def test_empty_stream(translation):
    """A stream without any message is refused."""
    call = translation.StreamTranslate()
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError, match="required in the first message"):
        await call.read()


async def test_drain_answers_what_it_has(serve, translators, connect):
    """A draining server answers the accepted messages and then ends a silent stream."""
    app = await serve(translators, load_models=["fixed"], model_control="none")
    async with connect(app) as channel:
        call = translation_service_pb2_grpc.TranslationServiceStub(channel).StreamTranslate()
        await call.write(first_message("fixed"))
        await call.write(pb.StreamTranslateRequest(sources=[raw(draw(1))]))
        assert len((await call.read()).batch.translations) == 1
        stopping = asyncio.create_task(app.stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping
