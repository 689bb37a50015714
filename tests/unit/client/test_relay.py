"""Tests of calls through the helper process: the same results and errors as without it."""

import asyncio
import os
import signal
import socket

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from imagemint import client
from imagemint.client import AsyncClient, Client, Tls, forks
from imagemint.client.relay import channel as relay_channel
from imagemint.client.relay import process
from imagemint.client.relay.frames import Frame, read_frame

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(autouse=True)
def _simulate_fork(monkeypatch):
    """Simulates a fork of a process in which gRPC was running."""
    monkeypatch.setattr(forks, "is_grpc_broken", lambda: True)


@pytest.fixture
async def relayed(address):
    """A client of `mint` with a helper process."""
    async with AsyncClient(address, metadata=[("authorization", "Bearer x")]) as opened:
        yield opened


async def test_results_are_equal(relayed, mint, monkeypatch, address):
    """Calls, streams, models and metadata give the same results."""
    batch = await relayed.generate("tiny", 3, seed=5)
    streamed = [part async for part in relayed.stream("tiny", 30, seed=5)]
    assert [model.name for model in await relayed.models()] == ["tiny", "zebra"]
    assert {each["authorization"] for each in mint.metadata} == {"Bearer x"}
    monkeypatch.undo()
    async with AsyncClient(address) as direct:
        assert np.array_equal((await direct.generate("tiny", 3, seed=5)).image, batch.image)
        whole = (await direct.generate("tiny", 30, seed=5)).image
    assert np.array_equal(np.concatenate([part.image for part in streamed]), whole)


async def test_sources_are_sent_with_the_metadata(relayed, mint):
    """A call with a stream both ways has the key of the client, too."""
    sources = [np.full((2, 3, 1), level, np.uint8) for level in (1, 2)]
    results = [each async for each in relayed.translate_stream("tiny", sources)]
    assert [int(result.image[0, 0, 0]) for result in results] == [254, 253]
    assert {each["authorization"] for each in mint.metadata} == {"Bearer x"}


async def test_interrupt_does_not_end_the_helper(relayed):
    """Ctrl-C reaches all processes of a terminal. The process of the user decides what it ends."""
    await relayed.generate("tiny")
    os.kill(relayed._connection._channel._process.pid, signal.SIGINT)
    assert len(await relayed.generate("tiny", 3)) == 3


async def test_large_response_is_received(relayed):
    """A response may exceed the buffers of a socket and the limits of a reader."""
    assert len(await relayed.generate("tiny", 60_000, seed=1)) == 60_000


async def test_errors_keep_their_details(relayed, mint, fault):
    """Class, reason and metadata are preserved."""
    info = error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND", metadata={"known": "a, b"})
    mint.faults.append(fault(grpc.StatusCode.NOT_FOUND, "gone", info))
    with pytest.raises(client.NotFound, match="gone") as caught:
        await relayed.generate("tiny")
    assert (caught.value.reason, caught.value.metadata) == ("MODEL_NOT_FOUND", {"known": "a, b"})


async def test_stream_resumes(relayed, mint, fault):
    """A broken stream continues at the next index."""
    mint.breaks.append((1, fault(UNAVAILABLE)))
    indices = [int(each) async for part in relayed.stream("tiny", 10) for each in part.index]
    assert indices == list(range(10))
    assert len(mint.requests) == 2


async def test_deadline_applies(relayed, mint):
    """A call without an answer raises and is cancelled on the server."""
    await relayed.generate("tiny")  # starts the helper, so that the next call arrives in time
    mint.silent = True
    with pytest.raises(client.DeadlineExceeded):
        await relayed.generate("tiny", timeout_s=1.0)
    assert await asyncio.to_thread(mint.cancelled.wait, 30)


async def test_abandoned_stream_is_cancelled(relayed, mint):
    """Closing the stream cancels the call on the server."""
    chunks = relayed.stream("tiny", 10**6)
    await anext(chunks)
    await chunks.aclose()
    assert await asyncio.to_thread(mint.cancelled.wait, 30)


@pytest.mark.parametrize("calls", ["generate", "stream"])
async def test_close_raises_in_other_tasks(address, mint, calls):
    """The behaviour is the same as without a helper."""
    relayed = AsyncClient(address)
    mint.silent = True
    call = relayed.generate("tiny") if calls == "generate" else anext(relayed.stream("tiny", 4))
    task = asyncio.ensure_future(call)
    await asyncio.to_thread(mint.asked.wait, 30)
    await relayed.close()
    with pytest.raises(client.ClientClosed):
        await task


def kill_helper(relayed):
    """Kills the helper process of a client, and returns its channel."""
    channel = relayed._connection._channel
    os.kill(channel._process.pid, signal.SIGKILL)
    return channel


async def test_dead_helper_is_replaced(relayed):
    """The next call starts another one, and no zombie remains."""
    await relayed.generate("tiny")
    channel = kill_helper(relayed)
    await channel._dispatcher
    assert len(await relayed.generate("tiny", 3)) == 3
    assert relayed._connection._channel is not channel
    assert channel._process.returncode == -signal.SIGKILL


async def test_call_is_repeated_without_its_helper(relayed, mint):
    """The answer to a call comes through another helper if the first one dies meanwhile."""
    await relayed.generate("tiny")
    mint.silent = True
    mint.asked.clear()
    call = asyncio.ensure_future(relayed.generate("tiny", 3))
    await asyncio.to_thread(mint.asked.wait, 30)
    mint.silent = False
    kill_helper(relayed)
    assert len(await call) == 3


async def test_stream_resumes_without_its_helper(relayed):
    """It continues at the next index with another helper."""
    chunks = relayed.stream("tiny", 10)
    indices = [int(each) for each in (await anext(chunks)).index]
    kill_helper(relayed)
    indices += [int(each) async for part in chunks for each in part.index]
    assert indices == list(range(10))


async def test_helper_that_always_ends_is_an_error(relayed, monkeypatch):
    """Calls raise at once instead of at their deadline. Those after the trouble succeed."""
    with monkeypatch.context() as patch:
        patch.setattr(relay_channel, "_PROGRAM", "raise SystemExit(1)")
        for _ in range(2):
            with pytest.raises(client.Unavailable, match="helper process"):
                await relayed.generate("tiny")
    assert len(await relayed.generate("tiny", 3)) == 3


async def test_helper_forgets_finished_calls(address):
    """A call with one answer keeps it, so a helper that kept its calls would fill the memory."""
    own, other = socket.socketpair()
    reader, closing = await asyncio.open_connection(sock=own)
    _, writer = await asyncio.open_connection(sock=other)
    header = {"do": "unary", "timeout": 30, "metadata": []}
    methods = ("/imagemint.v1.ModelService/ListModels", "/imagemint.v1.ModelService/None")
    async with aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
        helper = process._Helper(channel, writer)
        for number, method in enumerate(methods):
            helper.handle(Frame(header | {"call": number, "method": method}), tasks)
        assert len(helper._calls) == 2
        answers = {(await read_frame(reader)).header["call"] for _ in methods}
    assert answers == {0, 1}
    assert helper._calls == {}
    for each in (closing, writer):
        each.close()
        await each.wait_closed()


def test_helper_ends_with_its_client(address):
    """No process remains after the client is closed."""
    with Client(address) as blocking:
        blocking.generate("tiny")
        helper = blocking._client._connection._channel._process
        assert helper.poll() is None
    assert helper.poll() == 0


def test_tls_files_are_read_in_this_process(address, tmp_path):
    """A path that does not exist raises FileNotFoundError with the path."""
    with (
        Client(address, tls=Tls(tmp_path / "none.pem")) as blocking,
        pytest.raises(FileNotFoundError, match=r"none\.pem"),
    ):
        blocking.models()
