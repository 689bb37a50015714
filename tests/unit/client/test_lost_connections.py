"""Tests of connections that are lost after a response has begun, which gRPC does not repeat."""

import asyncio
import gc
from types import SimpleNamespace

import numpy as np
import pytest
from forwarder import run_forwarder
from grpc import aio

from imagemint import client
from imagemint.client import AsyncClient, api

WAIT_S = 60


@pytest.fixture
async def target(address):
    """Address of a forwarder that closes a connection when a response says so."""
    async with run_forwarder(address) as forwarder:
        yield f"127.0.0.1:{forwarder.port}"


@pytest.fixture
async def asynchronous(target):
    """A client whose connections are cut."""
    async with AsyncClient(target, timeout_s=WAIT_S) as opened:
        yield opened


async def generate(asynchronous):
    """Returns the indices of three images of one call."""
    return [*(await asynchronous.generate("tiny", 3, seed=1)).index]


async def stream(asynchronous):
    """Returns the indices of three images of a stream."""
    return [index async for each in asynchronous.stream("tiny", 3, seed=1) for index in each.index]


async def animate(asynchronous):
    """Returns the length of an animation."""
    return len(await asynchronous.animate(["tiny@3/1/0", "tiny@3/1/1"], 8))


async def translate(asynchronous):
    """Returns the number of translations of a stream."""
    sources = [np.zeros((4, 6, 1), np.uint8)] * 3
    return len([each async for each in asynchronous.translate_stream("tiny", sources, seed=1)])


async def list_models(asynchronous):
    """Returns the number of models."""
    return len(await asynchronous.models())


CALLS = [
    (generate, [0, 1, 2]),
    (stream, [0, 1, 2]),
    (animate, len(b"firstsecond")),
    (translate, 3),
    (list_models, 2),
]


@pytest.mark.parametrize(("call", "result"), CALLS, ids=lambda each: getattr(each, "__name__", ""))
async def test_call_is_made_once_more(asynchronous, mint, call, result):
    """The caller gets the answer of the second call."""
    mint.cuts = 1
    assert await call(asynchronous) == result
    assert mint.cuts == 0


@pytest.mark.parametrize(("call", "result"), CALLS, ids=lambda each: getattr(each, "__name__", ""))
async def test_call_is_not_made_a_third_time(asynchronous, mint, call, result):
    """A request that ends each server must not end all of them. The error says what happened."""
    mint.cuts = 2
    with pytest.raises(client.Unavailable, match=r"^the connection to .* was lost") as caught:
        await call(asynchronous)
    assert caught.value.reason == "CONNECTION_LOST"
    assert len(mint.requests) == 2
    assert await call(asynchronous) == result


async def test_second_call_has_the_rest_of_the_time(asynchronous, mint, monkeypatch):
    """The deadline is that of both calls."""
    times = iter([0, 0, 0, 40, 40])
    monkeypatch.setattr(api, "time", SimpleNamespace(monotonic=lambda: next(times)))
    mint.cuts = 1
    await asynchronous.generate("tiny", timeout_s=WAIT_S)
    assert mint.deadlines_s[1] < WAIT_S - 30 < mint.deadlines_s[0]


def list_calls():
    """Returns the calls of gRPC that exist in this process."""
    # By type, because objects of other libraries warn when isinstance asks for their class.
    return [each for each in gc.get_objects() if issubclass(type(each), aio.Call)]


@pytest.mark.parametrize(("call", "result"), CALLS, ids=lambda each: getattr(each, "__name__", ""))
async def test_failed_call_is_released(asynchronous, mint, call, result):
    """It would keep its connection open, also after `close`, until the garbage collector runs."""
    gc.collect()
    gc.disable()
    try:
        mint.cuts = 1
        assert await call(asynchronous) == result
        async with asyncio.timeout(WAIT_S):
            while list_calls():  # noqa: ASYNC110 - cancelled tasks end in later iterations
                await asyncio.sleep(0)
    finally:
        gc.enable()
