"""Tests of the imagemint service as a target: requests and responses."""

from contextlib import aclosing

import grpc
import pytest

from imagemint.bench.imagemint_target import ImagemintTarget
from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2


@pytest.fixture
def target(address):
    """A target of the model `tiny` with an API key."""
    return ImagemintTarget((address,), "tiny", "2", metadata=(("authorization", "Bearer key"),))


async def test_request_follows_the_mix(target, mint):
    """The request has every key of the kind, the seed, and other indices for every turn."""
    text = "count=2 class=balanced format=png truncation=0.5 priority=high"
    async with target.connect() as connection:
        send = connection.prepare_unary(parse_mix(text).kinds[0], 7)
        replies = [await send(turn) for turn in (0, 3)]
    assert [reply.images for reply in replies] == [2, 2]
    first, second = mint.requests
    assert (first.images.model, first.images.version, first.images.seed) == ("tiny", "2", 7)
    assert (first.images.first_index, second.images.first_index) == (0, 6)
    assert first.images.WhichOneof("condition") == "class_cycle"
    assert first.images.truncation == 0.5
    assert first.output.format == image_pb2.IMAGE_FORMAT_PNG
    assert first.priority == pb.PRIORITY_HIGH
    assert mint.metadata[0]["authorization"] == "Bearer key"


@pytest.mark.parametrize(("text", "condition"), [("2", "class_id"), ("two", "class_label")])
async def test_class_may_be_index_or_label(target, mint, text, condition):
    """The class is parsed as by `imagemint generate`."""
    async with target.connect() as connection:
        await connection.prepare_unary(parse_mix(f"class={text}").kinds[0], 0)(0)
    assert mint.requests[0].images.WhichOneof("condition") == condition


async def test_stream_is_read_by_chunks(target, mint):
    """Chunks have the requested size, and leaving early ends the call."""
    async with target.connect() as connection:
        chunks = connection.prepare_streaming(parse_mix("count=10 stream chunk=4").kinds[0], 1)
        assert [reply.images async for reply in chunks(0)] == [4, 4, 2]
        async with aclosing(chunks(1)) as left:
            await anext(left)
    assert isinstance(mint.requests[0], pb.StreamGenerateRequest)
    assert mint.requests[1].images.first_index == 10


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
async def test_refusal_is_not_retried(target, mint, fault, code):
    """Each refused call counts, and shed calls are distinguished from failures."""
    mint.faults.extend([fault(code, "no")] * 2)
    async with target.connect() as connection:
        with pytest.raises(CallFailed, match=f"{code.name}: no") as unary:
            await connection.prepare_unary(parse_mix("count=1").kinds[0], 0)(0)
        chunks = connection.prepare_streaming(parse_mix("count=8 stream").kinds[0], 0)(0)
        with pytest.raises(CallFailed, match=f"{code.name}: no") as stream:
            await anext(chunks)
    shed = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (unary.value.shed, stream.value.shed) == (shed, shed)
    assert len(mint.requests) == 2


async def test_broken_stream_is_a_failure(target, mint, fault):
    """A stream may fail after some chunks."""
    mint.breaks.append((1, fault(grpc.StatusCode.INTERNAL)))
    async with target.connect() as connection:
        chunks = connection.prepare_streaming(parse_mix("count=8 stream chunk=4").kinds[0], 0)(0)
        assert (await anext(chunks)).images == 4
        with pytest.raises(CallFailed, match="INTERNAL"):
            await anext(chunks)


async def test_overdue_responses_are_failures(address, mint):
    """The timeout applies to a call and to a chunk."""
    mint.silent = True
    async with ImagemintTarget((address,), "tiny", timeout_s=0.05).connect() as connection:
        with pytest.raises(CallFailed, match="DEADLINE_EXCEEDED"):
            await connection.prepare_unary(parse_mix("count=1").kinds[0], 0)(0)
        with pytest.raises(CallFailed, match="DEADLINE_EXCEEDED"):
            await anext(connection.prepare_streaming(parse_mix("count=8 stream").kinds[0], 0)(0))


async def test_images_in_a_response_are_counted(target, mint, monkeypatch):
    """A response with too few images is a failure."""
    whole = mint._batch

    def short(spec, picture_format):
        batch = whole(spec, picture_format)
        del batch.pictures[0]
        return batch

    monkeypatch.setattr(mint, "_batch", short)
    async with target.connect() as connection:
        with pytest.raises(CallFailed, match="SHORT_ANSWER: 1 pictures of 2 images"):
            await connection.prepare_unary(parse_mix("count=2").kinds[0], 0)(0)


async def test_fingerprint_covers_pixels_and_serials(target):
    """Equal requests have equal fingerprints. Another picture or serial changes it."""
    async with target.connect() as connection:
        send = connection.prepare_unary(parse_mix("count=2 class=1").kinds[0], 5)
        one, again, other = [(await send(turn)).content for turn in (0, 0, 1)]
        assert connection.compute_fingerprint(one) == connection.compute_fingerprint(again)
        assert connection.compute_fingerprint(one) != connection.compute_fingerprint(other)
        again.batch.images[1].serial += "0"
        assert connection.compute_fingerprint(one) != connection.compute_fingerprint(again)
