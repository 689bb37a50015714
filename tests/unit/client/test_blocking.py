"""Tests of the blocking client: results equal to asyncio, and a clean shutdown."""

import asyncio
import copy
import gc
import inspect
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from imagemint import client
from imagemint.client import AsyncClient, Client, Cycle
from imagemint.client.blocking import _make_iterator


@pytest.fixture
def list_threads():
    """A function that returns the live threads of clients that this test has made."""
    before = set(threading.enumerate())

    def list_new():
        return [
            each
            for each in threading.enumerate()
            if each.name == "imagemint-client" and each not in before
        ]

    return list_new


def test_methods_equal_those_of_asyncio():
    """Client has each public method of AsyncClient with its parameters and docstring."""
    for name, method in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            derived = getattr(Client, name)
            assert derived.__doc__ == method.__doc__
            assert inspect.signature(derived).parameters == inspect.signature(method).parameters
            assert not inspect.iscoroutinefunction(derived)


async def test_generate_equals_asyncio(address):
    """A call gives the same batch in both clients."""
    with Client(address) as blocking:
        one = blocking.generate("tiny", 3, seed=5, condition=Cycle())
    async with AsyncClient(address) as asynchronous:
        other = await asynchronous.generate("tiny", 3, seed=5, condition=Cycle())
    assert np.array_equal(one.image, other.image)
    assert one.serials == other.serials


def test_server_without_health_is_called(serve, mint):
    """A server or proxy that answers UNIMPLEMENTED to the watch of its health counts as healthy."""
    with Client(serve(mint, has_health=False)) as blocking:
        assert len(blocking.generate("tiny", 3, seed=5)) == 3


async def test_stream_equals_asyncio(address):
    """A stream gives the same chunks in both clients."""
    with Client(address) as blocking:
        one = [chunk.serials for chunk in blocking.stream("tiny", 10, seed=5)]
    async with AsyncClient(address) as asynchronous:
        other = [chunk.serials async for chunk in asynchronous.stream("tiny", 10, seed=5)]
    assert one == other
    assert [len(chunk) for chunk in one] == [4, 4, 2]


def test_iterator_does_not_read_ahead(address):
    """An item is computed only on request, so a slow consumer slows down the server."""
    made = []

    async def numbers(_):
        for number in range(10):
            made.append(number)
            yield number

    with Client(address) as blocking:
        items = _make_iterator(numbers)(blocking)
        assert made == []
        assert [next(items), next(items)] == [0, 1]
        assert made == [0, 1]


def test_abandoned_stream_is_cancelled(address, mint):
    """Leaving the loop cancels the call on the server."""
    with Client(address) as blocking:
        for _ in blocking.stream("tiny", 10**6, seed=1):
            break
        gc.collect()
        assert mint.cancelled.wait(30)


def test_stream_validates_arguments_at_once():
    """An invalid argument raises in the call and not with the first chunk."""
    with Client("127.0.0.1:1") as blocking, pytest.raises(client.InvalidRequest, match="count"):
        blocking.stream("tiny", -1)


def test_close_ends_the_thread(address, list_threads):
    """After the with statement no thread is left."""
    for _ in range(3):
        with Client(address) as blocking:
            blocking.generate("tiny")
            assert list_threads()
        assert not list_threads()


def test_close_may_be_repeated(address):
    """A second close does nothing. A later call says that the client is closed."""
    blocking = Client(address)
    blocking.close()
    blocking.close()
    with pytest.raises(client.Cancelled, match="closed"):
        blocking.generate("tiny")


def test_closed_client_cannot_be_entered(address):
    """A with statement of a closed client raises at once and not with the first call."""
    with Client(address) as blocking:
        blocking.generate("tiny")
    with pytest.raises(client.ClientClosed), blocking:
        pass


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", [Client, client.AsyncClient])
def test_client_is_not_duplicated(kind, duplicate):
    """Copies and pickles are refused: a connection cannot be shared in this way."""
    with pytest.raises(TypeError, match="Client cannot be copied or pickled"):
        duplicate(kind("127.0.0.1:1", metadata={"x-api-key": "secret"}))


def test_text_of_a_client_names_its_servers():
    """It shows no metadata, which may be a secret."""
    with Client("a:1, b:2", metadata={"x-api-key": "secret"}) as blocking:
        assert repr(blocking) == "<Client a:1, b:2>"


def test_close_cancels_a_pending_call(address, mint):
    """A pending call on another thread raises Cancelled."""
    mint.silent = True
    raised = []

    def call():
        try:
            blocking.generate("tiny")
        except client.Cancelled as error:
            raised.append(error)

    blocking = Client(address)
    waiting = threading.Thread(target=call)
    waiting.start()
    assert mint.asked.wait(30)
    blocking.close()
    waiting.join()
    assert raised[0].reason == "CLIENT_CLOSED"


def test_unreferenced_client_is_collected(address, list_threads):
    """The thread of a client that was not closed ends with it."""
    blocking = Client(address)
    blocking.generate("tiny")
    gone = weakref.ref(blocking)
    (thread,) = list_threads()
    del blocking
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not list_threads()


def test_collection_during_a_call_does_not_deadlock(address, monkeypatch):
    """The collector may end an abandoned stream while another call is submitted."""
    submit = asyncio.run_coroutine_threadsafe

    def collecting(coroutine, loop):
        gc.collect()
        return submit(coroutine, loop)

    with Client(address) as blocking:
        chunks = blocking.stream("tiny", 10**6, seed=1)
        next(chunks)
        cycle = [chunks]
        cycle.append(cycle)
        del chunks, cycle
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", collecting)
        assert len(blocking.generate("tiny")) == 1


def test_calls_during_close_end(address):
    """Calls on other threads either succeed or raise ClientClosed, and none hangs."""
    outcomes = []

    def call(blocking):
        try:
            while True:
                blocking.generate("tiny")
        except client.ClientClosed:
            outcomes.append("closed")

    for _ in range(20):
        blocking = Client(address)
        callers = [threading.Thread(target=call, args=(blocking,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        blocking.close()
        for caller in callers:
            caller.join(30)
    assert outcomes == ["closed"] * 80


def test_unclosed_client_does_not_block_exit(address):
    """A process that ends without close() during a stream exits without output."""
    code = (
        "from imagemint.client import Client\n"
        f"client = Client({address!r})\n"
        "chunks = client.stream('tiny', 10**6)\n"
        "print(len(next(chunks)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_call_on_the_own_loop_is_refused(address):
    """A blocking call on the client's own thread raises instead of a deadlock."""
    with Client(address) as blocking:

        async def inside():
            blocking.generate("tiny")

        with pytest.raises(RuntimeError, match="inside the event loop of the client"):
            blocking._portal.wait(inside())


@pytest.fixture
def blocking(address):
    """A client of `mint`."""
    with Client(address) as opened:
        yield opened


def draw(value):
    """Returns a source of 2x3 pixels."""
    return np.full((2, 3, 1), value, np.uint8)


def test_sources_may_use_the_client(blocking):
    """They are read in the waiting thread, so a source may come from a call of the same client."""
    threads = []

    def read_sources():
        for index in range(20):
            threads.append(threading.current_thread())
            yield draw(blocking.generate("tiny", seed=0, first_index=index).image[0, 0, 0])

    results = list(blocking.translate_stream("tiny", read_sources()))
    expected = blocking.generate("tiny", 16, seed=0).image[:, 0, 0, 0]
    assert [255 - result.image[0, 0, 0] for result in results[:16]] == [*expected]
    assert len(results) == 20
    assert set(threads) == {threading.current_thread()}


def test_failing_source_follows_the_answers(blocking):
    """The error of a source is raised after the translations of the sources before it."""

    def read_sources():
        yield from map(draw, range(3))
        raise OSError("no disk")

    results = blocking.translate_stream("tiny", sources=read_sources())
    assert [255 - next(results).image[0, 0, 0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no disk"):
        next(results)


def test_interrupt_of_a_source_ends_the_stream(blocking):
    """An interrupt passes on at once, and the client stays usable."""

    def read_sources():
        yield from map(draw, range(8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(blocking.translate_stream("tiny", read_sources()))
    assert len(blocking.generate("tiny")) == 1


def test_sources_of_one_call_are_read_by_the_caller(blocking):
    """A generator of sources runs in the thread that calls."""
    threads = []

    def read_sources():
        threads.append(threading.current_thread())
        yield draw(1)

    for translate in (blocking.translate, blocking.translate_encoded):
        with pytest.raises(client.Unimplemented):  # the small server has no such method
            translate("tiny", read_sources())
    assert threads == [threading.current_thread()] * 2


def test_wrong_sources_raise_before_the_first_answer(blocking):
    """One picture is no sequence of sources."""
    with pytest.raises(client.InvalidRequest, match="is not a sequence of sources"):
        blocking.translate_stream("tiny", b"PNG")
