"""The blocking client: the same answers as asyncio, and a tidy end."""

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from imagemint import client
from imagemint.client import AsyncClient, Client, Cycle
from imagemint.client.blocking import _make_iterator


def threads():
    """Names of the client's threads that are alive."""
    return [each for each in threading.enumerate() if each.name == "imagemint-client"]


def test_methods_are_those_of_asyncio():
    """Each public method of AsyncClient stands in Client with its parameters and documentation."""
    for name, method in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            derived = getattr(Client, name)
            assert derived.__doc__ == method.__doc__
            assert inspect.signature(derived).parameters == inspect.signature(method).parameters
            assert not inspect.iscoroutinefunction(derived)


async def test_generate_equals_asyncio(address):
    """The same call gives the same batch either way."""
    with Client(address) as blocking:
        one = blocking.generate("tiny", 3, seed=5, condition=Cycle())
    async with AsyncClient(address) as asynchronous:
        other = await asynchronous.generate("tiny", 3, seed=5, condition=Cycle())
    assert np.array_equal(one.image, other.image)
    assert one.serials == other.serials


async def test_stream_equals_asyncio(address):
    """The same stream gives the same chunks either way."""
    with Client(address) as blocking:
        one = [chunk.serials for chunk in blocking.stream("tiny", 10, seed=5)]
    async with AsyncClient(address) as asynchronous:
        other = [chunk.serials async for chunk in asynchronous.stream("tiny", 10, seed=5)]
    assert one == other
    assert [len(chunk) for chunk in one] == [4, 4, 2]


def test_iterator_fetches_nothing_ahead(address):
    """An item is made only when it is asked for: a slow consumer holds the server back."""
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


def test_stream_left_early_is_dropped(address, mint):
    """Leaving the loop cancels the call on the server."""
    with Client(address) as blocking:
        for _ in blocking.stream("tiny", 10**6, seed=1):
            break
        gc.collect()
        assert mint.cancelled.wait(30)


def test_stream_tells_wrong_arguments_at_once():
    """A wrong argument raises in the call, not with the first chunk."""
    with Client("127.0.0.1:1") as blocking, pytest.raises(client.InvalidRequest, match="count"):
        blocking.stream("tiny", -1)


def test_close_ends_thread(address):
    """After the with statement no thread is left, however often."""
    for _ in range(3):
        with Client(address) as blocking:
            blocking.generate("tiny")
            assert threads()
        assert not threads()


def test_close_twice_is_harmless(address):
    """A second close does nothing; a call afterwards says that the client is closed."""
    blocking = Client(address)
    blocking.close()
    blocking.close()
    with pytest.raises(client.Cancelled, match="closed"):
        blocking.generate("tiny")


def test_close_cancels_waiting_call(address, mint):
    """A call that waits on another thread ends with Cancelled."""
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


def test_forgotten_client_is_collected(address):
    """A client that nobody closed takes its thread along."""
    blocking = Client(address)
    blocking.generate("tiny")
    gone = weakref.ref(blocking)
    (thread,) = threads()
    del blocking
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not threads()


def test_collection_inside_a_submission_does_not_deadlock(address, monkeypatch):
    """The collector may end a forgotten stream while the portal takes in another call."""
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


def test_calls_at_the_moment_of_closing_end(address):
    """Calls that other threads make while the client closes are answered or refused, none hangs."""
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


def test_forgotten_client_does_not_hang_exit(address):
    """A process that ends without close(), in the middle of a stream, ends quietly."""
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


def test_call_inside_own_loop_is_refused(address):
    """A blocking call on the client's own thread raises instead of waiting for itself."""
    with Client(address) as blocking:

        async def inside():
            blocking.generate("tiny")

        with pytest.raises(RuntimeError, match="own event loop"):
            blocking._portal.wait(inside())
