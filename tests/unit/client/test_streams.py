"""Tests of streams: they resume at the next index, and each index occurs exactly once."""

import asyncio

import grpc
import numpy as np
import pytest
from grpc import aio

from imagemint import client
from imagemint.client import AsyncClient, Cycle, PerImage, streams
from imagemint.client.lifetime import Lifetime
from imagemint.client.resuming import Backoff

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CANCELLED = grpc.StatusCode.CANCELLED


@pytest.fixture(autouse=True)
def _shorten_backoff(monkeypatch):
    """Waits a millisecond between attempts."""
    backoff = Backoff(initial_s=0.001, longest_s=0.001)
    monkeypatch.setattr(streams.resume_stream, "__kwdefaults__", {"backoff": backoff})


@pytest.fixture
async def asynchronous(address):
    """An asyncio client of `mint`."""
    async with AsyncClient(address) as opened:
        yield opened


async def collect(chunks):
    """Returns indices, classes and pixels of a whole stream."""
    batches = [batch async for batch in chunks]
    return (
        [int(each) for batch in batches for each in batch.index],
        [int(each) for batch in batches for each in batch.class_id],
        np.concatenate([batch.image for batch in batches]),
    )


class ScriptedCalls:
    """Calls that share a list of chunks, each with these indices, and errors that are raised."""

    def __init__(self, *answers):
        self.requests = []
        self._answers = iter(answers)

    async def open(self, request):
        """Returns a call that continues with the next answer."""
        self.requests.append(request)
        return self

    async def read(self):
        """Returns the next answer; None at the end."""
        answer = next(self._answers, None)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return None
        return streams.Response(batch={"images": [{"index": index} for index in answer]})

    def cancel(self):
        """Does nothing."""
        return True


def stream_images(calls, count):
    """Returns a stream of images that the calls answer."""
    request = streams.Request(images={"count": count})
    return streams.resume_stream(calls.open, request, lifetime=Lifetime("it"), timeout_s=None)


@pytest.mark.parametrize("code", [UNAVAILABLE, EXHAUSTED, CANCELLED], ids=lambda code: code.name)
@pytest.mark.parametrize(
    "condition", [None, 1, Cycle([2, 0, 1]), PerImage([0, 1, 2, 2, 1, 0, 0, 1, 2, 0])]
)
async def test_broken_stream_equals_the_whole_one(asynchronous, mint, fault, code, condition):
    """After two failures each index occurs once, with its class and pixels."""
    whole = await collect(asynchronous.stream("tiny", 10, first_index=3, condition=condition))
    mint.breaks.extend([(1, fault(code)), (1, fault(code))])
    broken = await collect(asynchronous.stream("tiny", 10, first_index=3, condition=condition))
    assert broken[:2] == whole[:2]
    assert np.array_equal(broken[2], whole[2])
    assert [request.images.count for request in mint.requests] == [10, 10, 6, 2]


async def test_resumed_stream_keeps_seed_and_version(asynchronous, mint, fault):
    """The second call has the seed and version of the first chunk and the other fields."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    await collect(asynchronous.stream("tiny", 9, chunk_size=3, truncation=0.5))
    first, second = mint.requests
    assert not first.images.HasField("seed")
    assert (second.images.seed, second.images.version) == (2**64 - 3, "3")
    assert (second.images.first_index, second.images.count) == (3, 6)
    assert (second.chunk_size, second.images.truncation) == (3, 0.5)


async def test_resumed_stream_sends_the_remaining_latents(asynchronous, mint, fault):
    """Only explicit latents of missing images are sent again."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    latents = np.arange(10.0).reshape(5, 2)
    chunks = asynchronous.stream("tiny", 5, latents=latents, condition=0)
    await collect(chunks)
    assert list(mint.requests[1].images.latents.values) == [8.0, 9.0]
    assert mint.requests[1].images.WhichOneof("source") == "latents"


async def test_encoded_stream_resumes(asynchronous, mint, fault):
    """Pictures also occur exactly once."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream_encoded("tiny", 6, seed=1)
    serials = [each.serials[0] async for chunk in chunks for each in chunk]
    assert serials == [f"tiny@3/1/{index}?class={index % 3}" for index in range(6)]


async def test_stream_survives_an_outage(asynchronous, mint, fault):
    """The stream continues after any number of failures if the server is back in time."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    mint.breaks.extend([(0, fault(UNAVAILABLE))] * 20)
    indices, _, _ = await collect(asynchronous.stream("tiny", 10, seed=1))
    assert indices == list(range(10))


async def test_outage_beyond_the_timeout_is_raised(asynchronous, mint, fault):
    """If the server does not come back within timeout_s, the last failure is raised."""
    await asynchronous.models()  # so that the first chunk needs no connection
    mint.breaks.extend([(1, fault(UNAVAILABLE, "gone")), *[(0, fault(UNAVAILABLE, "gone"))] * 9999])
    chunks = asynchronous.stream("tiny", 10, seed=1, timeout_s=1.0)
    assert len(await anext(chunks)) == 4
    with pytest.raises(client.Unavailable, match="gone"):
        await anext(chunks)


async def test_progress_resets_the_attempts(asynchronous, mint, fault):
    """A chunk between two failures resets the count of failures."""
    mint.breaks.extend([(1, fault(UNAVAILABLE))] * 9)
    indices, _, _ = await collect(asynchronous.stream("tiny", 40, seed=1))
    assert indices == list(range(40))


async def test_failure_before_first_chunk_is_raised(asynchronous, mint, fault):
    """Before the first chunk only the service config retries."""
    mint.faults.extend([fault(EXHAUSTED)] * 4)
    with pytest.raises(client.QueueFull):
        await collect(asynchronous.stream("tiny", 10))
    assert len(mint.requests) == 4


async def test_other_failure_is_raised(asynchronous, mint, fault):
    """A failure that a retry cannot fix ends the stream."""
    mint.breaks.append((1, fault(grpc.StatusCode.INTERNAL, "broken")))
    with pytest.raises(client.ServerError, match="broken"):
        await collect(asynchronous.stream("tiny", 10))
    assert len(mint.requests) == 1


async def test_changed_bundle_is_refused(asynchronous, mint, fault):
    """A version with other bytes does not continue the stream."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream("tiny", 10, seed=1)
    await anext(chunks)
    mint.bundle_sha256 = "cd" * 32
    with pytest.raises(client.ServerError) as caught:
        await anext(chunks)
    assert caught.value.reason == "BUNDLE_CHANGED"


async def test_changed_variant_is_refused(asynchronous, mint, fault):
    """Another variant gives other pixels, so it does not continue the stream."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream("tiny", 10, seed=1)
    assert (await anext(chunks)).variant == "int8"
    mint.variant = "fp32"
    with pytest.raises(client.ServerError) as caught:
        await anext(chunks)
    assert caught.value.reason == "VARIANT_CHANGED"


async def test_unknown_variant_is_accepted(asynchronous, mint, fault):
    """A server from before variants may continue a stream."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    chunks = asynchronous.stream("tiny", 10, seed=1)
    await anext(chunks)
    mint.variant = ""
    assert (await anext(chunks)).variant == ""


async def test_retry_delay_beyond_the_timeout_is_raised(asynchronous, mint, fault, monkeypatch):
    """If the server asks for a longer delay than timeout_s, the stream ends without a wait."""
    waits, sleep = [], asyncio.sleep

    async def record(delay_s):
        waits.append(delay_s)
        await sleep(0)

    mint.breaks.append((1, fault(EXHAUSTED, retry_s=90)))
    chunks = asynchronous.stream("tiny", 10, timeout_s=60)
    await anext(chunks)
    monkeypatch.setattr(asyncio, "sleep", record)
    with pytest.raises(client.QueueFull) as caught:
        await anext(chunks)
    assert caught.value.retry_delay_s == 90
    assert max(waits, default=0) < 1


async def test_failure_after_the_last_chunk_is_ignored():
    """If every image has arrived, the stream ends without a further call."""
    failure = aio.AioRpcError(UNAVAILABLE, aio.Metadata(), aio.Metadata())
    calls = ScriptedCalls([0, 1], failure)
    chunks = [chunk async for chunk in stream_images(calls, 2)]
    assert [image.index for chunk in chunks for image in chunk.batch.images] == [0, 1]
    assert len(calls.requests) == 1


@pytest.mark.parametrize(
    ("indices", "reason"),
    [
        ([[0, 1], [1, 2]], "STREAM_GAP"),
        ([[0, 1], [3]], "STREAM_GAP"),
        ([[0, 1], []], "STREAM_GAP"),
        ([[0, 1]], "STREAM_TRUNCATED"),
    ],
)
async def test_missing_and_repeated_images_are_errors(indices, reason):
    """A server that repeats or skips an index, or ends the stream early, is an error."""
    chunks = stream_images(ScriptedCalls(*indices), 4)
    assert len((await anext(chunks)).batch.images) == 2
    with pytest.raises(client.ServerError) as caught:
        await anext(chunks)
    assert caught.value.reason == reason


async def test_overdue_chunk_is_an_error(asynchronous, mint):
    """The timeout applies to each chunk, and the call is cancelled on the server."""
    await asynchronous.models()  # so that the call reaches the server in time
    mint.silent = True
    with pytest.raises(client.DeadlineExceeded) as caught:
        await collect(asynchronous.stream("tiny", 10, timeout_s=1.0))
    assert caught.value.reason == "CHUNK_OVERDUE"
    assert mint.cancelled.wait(30)


def test_backoff_grows_and_respects_the_server():
    """Delays double up to a maximum and are never shorter than the server's retry delay."""
    backoff = Backoff(initial_s=1, longest_s=4)
    for failures, wait_s in ((1, 1), (2, 2), (3, 4), (9, 4)):
        assert wait_s <= backoff.compute_delay_s(failures, None) <= wait_s * 1.25
    assert 30 <= backoff.compute_delay_s(1, 30.0) <= 30.25
