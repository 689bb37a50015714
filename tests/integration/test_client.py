"""Tests of the public client with a real server: restarts, many serials, forks and the command."""

import asyncio
import subprocess
import sys

import numpy as np
import pytest

from imagemint.client import AsyncClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORKS = """
import multiprocessing as mp, sys
from imagemint.client import Client, ClientForked
client = Client(sys.argv[1], timeout_s=30)

def work(seed):
    try:
        client.generate("digits")
    except ClientForked:
        with Client(sys.argv[1], timeout_s=30) as own:
            return own.generate("digits", 1, seed=seed).image.tobytes()

chunks = client.stream("digits", 10**6, seed=9)
next(chunks)
with mp.get_context("fork").Pool(2) as pool:
    made = pool.map(work, range(4))
assert made == [client.generate("digits", 1, seed=seed).image.tobytes() for seed in range(4)]
next(chunks)
print("equal")
"""


async def run_program(*words):
    """Runs Python with these arguments and returns status, stdout and stderr."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


async def test_stream_survives_a_restart(serve, models, client):
    """A server that restarts at the same address loses no index and no byte."""
    first = await serve(models)
    async with AsyncClient(first.grpc_address, timeout_s=60) as streaming:
        chunks = streaming.stream("digits", 3000, seed=4, chunk_size=50)
        batches = [await anext(chunks)]
        await first.stop()
        waiting = asyncio.ensure_future(anext(chunks))
        second = await serve(models, grpc_address=first.grpc_address)
        batches.append(await waiting)
        batches += [batch async for batch in chunks]
    assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(3000))
    whole = [batch.image async for batch in client.stream("digits", 3000, seed=4)]
    assert np.array_equal(np.concatenate([batch.image for batch in batches]), np.concatenate(whole))
    await second.stop()


@pytest.mark.parametrize("model", ["digits", "plain", "bounded", "styled", "people"])
async def test_many_serials_give_the_same_pixels(client, model):
    """Serials may come in any order, repeatedly and over several seeds."""
    truncation = 0.5 if model in ("bounded", "styled") else None
    batches = [
        await client.generate(model, 20, seed=seed, truncation=truncation) for seed in (1, 2**63)
    ]
    serials = [serial for batch in batches for serial in batch.serials]
    order = np.random.default_rng(0).integers(0, 40, 60)
    again = await client.mint([serials[at] for at in order])
    assert np.array_equal(again.image, np.concatenate([batch.image for batch in batches])[order])
    assert list(again.serials) == [serials[at] for at in order]


async def test_forked_workers_get_the_same_pixels(app):
    """Workers that are forked while the parent streams use their own clients."""
    status, out, err = await run_program("-c", FORKS, app.grpc_address)
    assert (status, out) == (0, "equal\n"), err


async def test_command_output_can_be_generated_again(app, tmp_path):
    """The serials in the npz of the command give its pixels."""
    code = "import sys; from imagemint.command import main; sys.exit(main())"
    line = ("-c", code, "generate", "--server", app.grpc_address, "--quiet")
    one, two = tmp_path / "one.NPZ", tmp_path / "two.npz"
    first = ("--model", "digits", "--class", "3", "--class", "label:7", "--count", 6)
    assert await run_program(*line, *first, "--out", one) == (0, "", "")
    with np.load(one) as arrays:
        assert arrays["class_id"].tolist() == [3, 7] * 3
        assert arrays["class_labels"].tolist() == list("0123456789")
        serials = arrays["serial"].tolist()
        image = arrays["image"]
    assert await run_program(*line, "--serial", ",".join(serials), "--out", two) == (0, "", "")
    with np.load(two) as arrays:
        assert np.array_equal(arrays["image"], image)
