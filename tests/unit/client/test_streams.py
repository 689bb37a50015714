"""Streams: resumed from the next index, each index exactly once."""

import grpc
import numpy as np
import pytest

from imagemint import client
from imagemint.client import AsyncClient, Cycle, PerImage, streams

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CANCELLED = grpc.StatusCode.CANCELLED


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """A millisecond between attempts."""
    hasty = streams.Backoff(initial_s=0.001, longest_s=0.001)
    monkeypatch.setattr(streams.resume_stream, "__kwdefaults__", {"backoff": hasty})


@pytest.fixture
async def asynchronous(address):
    """A client of `mint`."""
    async with AsyncClient(address) as opened:
        yield opened


async def collected(chunks):
    """Indices, classes and pixels of a whole stream."""
    batches = [batch async for batch in chunks]
    return (
        [int(each) for batch in batches for each in batch.index],
        [int(each) for batch in batches for each in batch.class_id],
        np.concatenate([batch.image for batch in batches]),
    )


@pytest.mark.parametrize("code", [UNAVAILABLE, EXHAUSTED, CANCELLED], ids=lambda code: code.name)
@pytest.mark.parametrize(
    "condition", [None, 1, Cycle([2, 0, 1]), PerImage([0, 1, 2, 2, 1, 0, 0, 1, 2, 0])]
)
async def test_broken_stream_equals_whole_one(asynchronous, mint, fault, code, condition):
    """After two failures in the middle each index is there once, with class and pixels."""
    whole = await collected(asynchronous.stream("tiny", 10, first_index=3, condition=condition))
    mint.breaks.extend([(1, fault(code)), (1, fault(code))])
    broken = await collected(asynchronous.stream("tiny", 10, first_index=3, condition=condition))
    assert broken[:2] == whole[:2]
    assert np.array_equal(broken[2], whole[2])
    assert [each.images.count for each in mint.requests] == [10, 10, 6, 2]


async def test_resumed_stream_is_pinned(asynchronous, mint, fault):
    """Seed and version of the first chunk go with the second call; the rest stays as it was."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    await collected(asynchronous.stream("tiny", 9, chunk_size=3, truncation=0.5))
    first, second = mint.requests
    assert not first.images.HasField("seed")
    assert (second.images.seed, second.images.version) == (2**64 - 3, "3")
    assert (second.images.first_index, second.images.count) == (3, 6)
    assert (second.chunk_size, second.images.truncation) == (3, 0.5)


async def test_resumed_stream_cuts_latents(asynchronous, mint, fault):
    """Of explicit latents only those still missing are sent again."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    latents = np.arange(10.0).reshape(5, 2)
    chunks = asynchronous.stream("tiny", 5, latents=latents, condition=0)
    await collected(chunks)
    assert list(mint.requests[1].images.latents.values) == [8.0, 9.0]
    assert mint.requests[1].images.WhichOneof("source") == "latents"


async def test_encoded_stream_resumes_too(asynchronous, mint, fault):
    """Pictures come exactly once as well."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream_encoded("tiny", 6, seed=1)
    serials = [each.serials[0] async for chunk in chunks for each in chunk]
    assert serials == [f"tiny@3/1/{index}?class={index % 3}" for index in range(6)]


async def test_outage_is_outlasted(asynchronous, mint, fault):
    """However many attempts fail, the stream goes on if the server is back before the deadline."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    mint.breaks.extend([(0, fault(UNAVAILABLE))] * 20)
    indices, _, _ = await collected(asynchronous.stream("tiny", 10, seed=1))
    assert indices == list(range(10))


async def test_outage_beyond_the_deadline_is_raised(asynchronous, mint, fault):
    """A server that does not come back within timeout_s raises the failure, not the waiting."""
    mint.breaks.extend([(1, fault(UNAVAILABLE, "gone")), *[(0, fault(UNAVAILABLE, "gone"))] * 999])
    chunks = asynchronous.stream("tiny", 10, seed=1, timeout_s=0.3)
    assert len(await anext(chunks)) == 4
    with pytest.raises(client.Unavailable, match="gone"):
        await anext(chunks)


async def test_progress_renews_attempts(asynchronous, mint, fault):
    """A chunk between two failures makes the count start anew."""
    mint.breaks.extend([(1, fault(UNAVAILABLE))] * 9)
    indices, _, _ = await collected(asynchronous.stream("tiny", 40, seed=1))
    assert indices == list(range(40))


async def test_failure_before_first_chunk_is_raised(asynchronous, mint, fault):
    """Before the first chunk only the service config retries."""
    mint.faults.extend([fault(EXHAUSTED)] * 4)
    with pytest.raises(client.QueueFull):
        await collected(asynchronous.stream("tiny", 10))
    assert len(mint.requests) == 4


async def test_other_failure_is_raised(asynchronous, mint, fault):
    """What a retry cannot mend ends the stream."""
    mint.breaks.append((1, fault(grpc.StatusCode.INTERNAL, "broken")))
    with pytest.raises(client.ServerError, match="broken"):
        await collected(asynchronous.stream("tiny", 10))
    assert len(mint.requests) == 1


async def test_changed_bundle_is_refused(asynchronous, mint, fault):
    """Other bytes under the same version are not passed off as the same stream."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream("tiny", 10, seed=1)
    await anext(chunks)
    mint.bundle_sha256 = "cd" * 32
    with pytest.raises(client.ServerError) as caught:
        await anext(chunks)
    assert caught.value.reason == "BUNDLE_CHANGED"


async def test_changed_variant_is_refused(asynchronous, mint, fault):
    """A server that runs another variant does not go on with the stream: its pixels are others."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream("tiny", 10, seed=1)
    assert (await anext(chunks)).variant == "int8"
    mint.variant = "fp32"
    with pytest.raises(client.ServerError) as caught:
        await anext(chunks)
    assert caught.value.reason == "VARIANT_CHANGED"


async def test_untold_variant_is_no_change(asynchronous, mint, fault):
    """A server of before variants may go on with a stream."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream("tiny", 10, seed=1)
    await anext(chunks)
    mint.variant = ""
    assert (await anext(chunks)).variant == ""


async def test_impatient_caller_is_not_kept_waiting(asynchronous, mint, fault):
    """A server that asks to wait longer than timeout_s ends the stream at once."""
    mint.breaks.append((1, fault(EXHAUSTED, retry_s=0.9)))
    chunks = asynchronous.stream("tiny", 10, timeout_s=0.5)
    await anext(chunks)
    with pytest.raises(client.QueueFull) as caught:
        await anext(chunks)
    assert caught.value.retry_delay_s == 0.9


async def test_overdue_chunk_passes_deadline(asynchronous, mint):
    """The deadline holds for each chunk; the server is told."""
    mint.silent = True
    with pytest.raises(client.DeadlineExceeded) as caught:
        await collected(asynchronous.stream("tiny", 10, timeout_s=0.05))
    assert caught.value.reason == "CHUNK_OVERDUE"
    assert mint.cancelled.wait(30)


def test_backoff_grows_and_honours_server():
    """Waits double up to the longest, and are never shorter than the server asks."""
    backoff = streams.Backoff(initial_s=1, longest_s=4)
    for failures, wait_s in ((1, 1), (2, 2), (3, 4), (9, 4)):
        assert wait_s <= backoff.delay_s(failures, None) <= wait_s * 1.25
    assert 30 <= backoff.delay_s(1, 30.0) <= 30.25
