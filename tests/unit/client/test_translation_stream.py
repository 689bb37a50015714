"""Tests of streams of translations: they resume, in order, and each source is answered once."""

import asyncio
import itertools
import threading

import grpc
import numpy as np
import pytest

from imagemint import client
from imagemint.client import AsyncClient, forks
from imagemint.client.lifetime import Lifetime
from imagemint.client.resuming import Backoff
from imagemint.client.translation_stream import Response, TranslationStream
from imagemint.v1 import translation_service_pb2 as pb

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CANCELLED = grpc.StatusCode.CANCELLED


@pytest.fixture(autouse=True)
def _shorten_backoff(monkeypatch):
    """Waits a millisecond between attempts."""
    defaults = {"backoff": Backoff(initial_s=0.001, longest_s=0.001)}
    monkeypatch.setattr(TranslationStream.__init__, "__kwdefaults__", defaults)


@pytest.fixture(params=[False, True], ids=["direct", "relayed"])
def relayed(request, monkeypatch):
    """Whether calls go through the helper of a forked process."""
    monkeypatch.setattr(forks, "is_grpc_broken", lambda: request.param)
    return request.param


@pytest.fixture
async def translator(address):
    """An asyncio client of `mint`."""
    async with AsyncClient(address) as opened:
        yield opened


def draw(number):
    """Returns a source whose levels tell its number."""
    return np.full((2, 3, 1), number, np.uint8)


async def collect(results):
    """Returns index and level of each translation."""
    return [(int(result.index[0]), int(result.image[0, 0, 0])) async for result in results]


@pytest.mark.parametrize("code", [UNAVAILABLE, EXHAUSTED, CANCELLED], ids=lambda code: code.name)
async def test_broken_stream_equals_the_whole_one(translator, mint, fault, code, relayed):
    """After two failures each source is answered once, in order, with its index."""
    del relayed
    mint.breaks.extend([(2, fault(code)), (1, fault(code))])
    mint.may_break = threading.Semaphore(0)
    found = []
    async for each in translator.translate_stream("tiny", map(draw, range(70)), first_index=5):
        found.append((int(each.index[0]), int(each.image[0, 0, 0])))
        if len(found) in (16, 24):  # all that comes before a break
            mint.may_break.release()
    assert found == [(5 + number, 255 - number) for number in range(70)]
    first, second, third = mint.translated
    assert [each.images.first_index for each in (first, second, third)] == [5, 21, 29]
    assert first.images.seed == third.images.seed
    assert (first.images.version, third.images.version) == ("", "3")


async def test_sources_are_read_a_little_ahead(translator, mint):
    """A consumer that stops reading stops the reading of the sources."""
    taken = itertools.count()
    sources = (draw(next(taken) % 256) for _ in range(10_000))
    results = translator.translate_stream("tiny", sources)
    await anext(results)
    for _ in range(5):  # the first answer makes room for the fifth message
        await asyncio.to_thread(mint.received.get, timeout=30)
    await results.aclose()
    assert next(taken) == 41
    assert await asyncio.to_thread(mint.ended.wait, 30)


async def test_asynchronous_source_is_sent_at_once(translator):
    """A source that depends on the result before it, as the next frame does, is no deadlock."""
    results = asyncio.Queue()

    async def produce():
        level = 7
        for _ in range(5):
            yield draw(level)
            level = 1 + await results.get()

    levels = []
    async for each in translator.translate_stream("tiny", produce()):
        levels.append(int(each.image[0, 0, 0]))
        results.put_nowait(levels[-1])
    assert levels == [248, 6, 248, 6, 248]


@pytest.mark.parametrize("code", [UNAVAILABLE, CANCELLED], ids=lambda code: code.name)
async def test_broken_stream_of_asynchronous_sources(translator, mint, fault, code, relayed):
    """No source is lost, although the call breaks while the next one is not there yet."""
    del relayed
    mint.breaks.append((2, fault(code)))
    mint.may_break = threading.Semaphore(0)
    loop, reopened = asyncio.get_running_loop(), asyncio.Event()

    class Calls(list):
        def append(self, call):
            super().append(call)
            if len(self) == 2:
                loop.call_soon_threadsafe(reopened.set)

    mint.translated = Calls()

    async def produce():
        for number in range(6):
            if number == 2:
                await reopened.wait()
            yield draw(number)

    found = []
    async for each in translator.translate_stream("tiny", produce()):
        found.append((int(each.index[0]), int(each.image[0, 0, 0])))
        if len(found) == 2:
            mint.may_break.release()
    assert found == [(number, 255 - number) for number in range(6)]


async def test_asynchronous_sources_end_with_the_stream(translator):
    """A stream that is left early no longer waits for its next source."""
    ended = asyncio.Event()

    async def produce():
        try:
            yield draw(1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    results = translator.translate_stream("tiny", produce())
    await anext(results)
    await results.aclose()
    await asyncio.wait_for(ended.wait(), 30)


async def test_error_of_an_asynchronous_source(translator):
    """It arrives after the results of the sources before."""

    async def produce():
        yield draw(1)
        raise KeyError("mine")

    results = translator.translate_stream("tiny", produce())
    await anext(results)
    with pytest.raises(KeyError, match="mine"):
        await anext(results)


async def test_cancelled_source_ends_the_stream(translator):
    """A source that waits for a cancelled task cancels the loop, as without the client."""

    async def produce():
        yield draw(1)
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    results = translator.translate_stream("tiny", produce(), timeout_s=30)
    await anext(results)
    with pytest.raises(asyncio.CancelledError, match="a source was cancelled"):
        await anext(results)


async def test_error_of_a_source_follows_its_predecessors(translator, mint):
    """What the sources raise arrives after the results of the sources before."""
    sources = [draw(1), draw(2), "none.png", draw(3)]
    results = translator.translate_stream("tiny", sources)
    assert [int((await anext(results)).index[0]) for _ in range(2)] == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        await anext(results)


@pytest.mark.parametrize("kind", [client.Unavailable, client.InvalidRequest])
async def test_error_of_another_client_is_not_retried(translator, mint, kind):
    """Sources may come from another server, whose errors do not concern this one."""
    failure = kind("sources[0]: of another server")

    def read_sources():
        yield draw(1)
        raise failure

    results = translator.translate_stream("tiny", read_sources())
    await anext(results)
    with pytest.raises(kind) as caught:
        await anext(results)
    assert caught.value is failure
    assert len(mint.translated) == 1


async def test_server_names_the_source_of_the_stream(translator, mint):
    """A violation has the number of the source in the whole stream."""
    sources = [draw(number) for number in range(30)]
    sources[19] = np.zeros((9, 9, 1), np.uint8)
    results = translator.translate_stream("tiny", sources)
    with pytest.raises(client.InvalidRequest, match="too large") as caught:
        await collect(results)
    assert [violation.field for violation in caught.value.violations] == ["sources[19].raw"]


async def test_failure_before_first_answer_is_raised(translator, mint, fault):
    """Before the first answer only the service config retries."""
    mint.faults.extend([fault(EXHAUSTED)] * 4)
    with pytest.raises(client.QueueFull):
        await collect(translator.translate_stream("tiny", [draw(1)]))
    assert len(mint.translated) == 0


async def test_outage_beyond_the_timeout_is_raised(translator, mint, fault):
    """If the server does not come back within timeout_s, the last failure is raised."""
    await translator.models()  # so that the first answer needs no connection
    mint.breaks.extend([(1, fault(UNAVAILABLE, "gone")), *[(0, fault(UNAVAILABLE, "gone"))] * 9999])
    mint.may_break = threading.Semaphore(0)
    results = translator.translate_stream("tiny", map(draw, range(70)), timeout_s=1.0)
    for number in range(8):
        assert int((await anext(results)).index[0]) == number
    mint.may_break.release(10_000)
    with pytest.raises(client.Unavailable, match="gone"):
        await anext(results)


async def test_silent_server_is_an_error(translator, mint):
    """An answer that does not arrive within timeout_s raises."""
    mint.silent = True
    with pytest.raises(client.DeadlineExceeded) as caught:
        await collect(translator.translate_stream("tiny", [draw(1)], timeout_s=0.1))
    assert caught.value.reason == "CHUNK_OVERDUE"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"bundle_sha256": "cd" * 32}, "BUNDLE_CHANGED"), ({"variant": "fp32"}, "VARIANT_CHANGED")],
)
async def test_changed_model_is_refused(translator, mint, fault, changed, reason):
    """A version with other bytes, or another variant, does not continue the stream."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    mint.may_break = threading.Semaphore(0)
    results = translator.translate_stream("tiny", map(draw, range(20)))
    for _ in range(8):
        await anext(results)
    vars(mint).update(changed)
    mint.may_break.release()
    with pytest.raises(client.ServerError) as caught:
        await anext(results)
    assert caught.value.reason == reason


class ScriptedCall:
    """A call that reads all sources before it answers with these numbers of translations."""

    def __init__(self, sizes):
        self._sizes = iter(sizes)
        self._sent = asyncio.Event()

    async def write(self, request):
        """Ignores the request."""

    async def done_writing(self):
        """Lets the answers arrive."""
        self._sent.set()

    async def read(self):
        """Returns the next answer; None at the end."""
        await self._sent.wait()
        size = next(self._sizes, None)
        return None if size is None else Response(batch={"translations": [{}] * size})

    def cancel(self):
        """Does nothing."""
        return True


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([1, 1], "STREAM_GAP"),
        ([1, 3], "STREAM_GAP"),
        ([1, 2, 1], "STREAM_GAP"),
        ([1], "STREAM_TRUNCATED"),
    ],
)
async def test_missing_and_surplus_translations_are_errors(sizes, reason):
    """A server that skips or adds a translation, or ends the stream early, is an error."""

    async def open_call():
        return ScriptedCall(sizes)

    groups = iter([[pb.Source()], [pb.Source(), pb.Source()]])
    stream = TranslationStream(
        open_call, pb.StreamTranslateRequest(), groups, lifetime=Lifetime("it"), timeout_s=None
    )
    with pytest.raises(client.ServerError) as caught:
        _ = [answer async for answer in stream.read_responses()]
    assert caught.value.reason == reason
