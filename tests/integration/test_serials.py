"""Tests that a serial determines its pixels in any batch, split and resumed stream."""
# ruff: noqa: S311 - the dice choose what to test

import asyncio
import random

import numpy as np
import pytest

from imagemint.client import AsyncClient, Client, Cycle, PerImage, Weights
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.engine.serial import Serial
from imagemint.server.app import App

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDS = (0, 42, 2**64 - 1)
FIRST_INDICES = (0, 10, 2**33, 2**64 - 120)
TRUNCATIONS = {
    "digits": (None,),
    "plain": (None,),
    "bounded": (None, 0.5),
    "styled": (None, 0.0, 0.5),
}


def compute_alone(engines, serial):
    """Returns the pixels of a serial from the engine, computed separately."""
    name = Serial.parse(serial)
    threshold = name.truncation if name.model == "bounded" else None
    psi = 1.0 if name.truncation is None else name.truncation
    image = engines[name.model].run(
        Batch(
            draw_latents(name.seed, name.index, 1, 8, threshold=threshold),
            None if name.class_id is None else np.int64([name.class_id]),
            truncation=np.float32([psi]) if name.model == "styled" else None,
        )
    )
    return image[0].tobytes()


def draw_request(dice):
    """Returns a random request: model, count and keywords of the client."""
    model = dice.choice(list(TRUNCATIONS))
    count = dice.randint(1, 60)
    condition = None
    if model != "plain":
        some = [dice.randrange(10) for _ in range(count)]
        weights = [dice.random() for _ in range(10)]
        kinds = [None, some[0], str(some[0]), PerImage(some), Cycle(), Cycle(some[:3])]
        condition = dice.choice([*kinds, Weights(weights)])
    selection = {
        "seed": dice.choice(SEEDS),
        "first_index": dice.choice(FIRST_INDICES) + dice.randrange(60),
        "condition": condition,
        "truncation": dice.choice(TRUNCATIONS[model]),
    }
    return model, count, selection


async def request_images(client, dice):
    """Returns the batches of a random request in a random way."""
    model, count, selection = draw_request(dice)
    priority = dice.choice(["normal", "high"])
    if dice.random() < 0.4:
        return [await client.generate(model, count, priority=priority, **selection)]
    chunk_size = dice.choice([None, 1, 7, 33])
    chunks = client.stream(model, count, chunk_size=chunk_size, priority=priority, **selection)
    if dice.random() < 0.5 or isinstance(selection["condition"], PerImage):
        return [batch async for batch in chunks]
    # The stream is left in the middle and requested again from the first missing index.
    batches = []
    async for batch in chunks:
        batches.append(batch)
        if dice.random() < 0.3:
            break
    await chunks.aclose()
    done = sum(map(len, batches))
    if done < count:
        rest = selection | {"first_index": selection["first_index"] + done}
        batches.append(await client.generate(model, count - done, **rest))
    return batches


class BucketedApp(App):
    """A server that runs batches as on a GPU: padded, in buffers of each thread."""

    def _open_backend(self, bundle):
        most = self._settings.compute_batch_images(on_cpu=False)
        return OnnxBackend(bundle, device="cpu", max_batch=most, bucketed=True)


@pytest.mark.parametrize("kind", [App, BucketedApp])
@pytest.mark.parametrize("number", range(3))
async def test_serial_determines_its_pixels(serve, models, engines, kind, number):
    """Each image of parallel random requests equals the one that is computed from its serial."""
    dice = random.Random(number)
    most = dice.choice([3, 16, 64])
    sizes = dice.choice([[], [most], [2, most // 2 + 1]])
    app = await serve(
        models,
        kind,
        instances=1 + number % 3,
        max_batch_images=most,
        preferred_batch_images=sizes,
        batch_delay_ms=dice.choice([0.0, 2.0]),
    )
    async with AsyncClient(app.grpc_address) as client:
        calls = [request_images(client, random.Random(dice.random())) for _ in range(24)]
        answers = [batch for batches in await asyncio.gather(*calls) for batch in batches]
        minted = {}
        for batch in answers:
            for serial, image in zip(batch.serials, batch.image, strict=True):
                assert minted.setdefault(serial, image.tobytes()) == image.tobytes()
        assert len(minted) > 200
        assert minted == {serial: compute_alone(engines, serial) for serial in minted}
        for serial in dice.sample(sorted(minted), 12):
            again = await client.mint(serial)
            assert again.serials == (serial,)
            assert again.image[0].tobytes() == minted[serial]


async def test_stream_equals_the_response(client):
    """Indices, classes, serials and pixels do not depend on the chunk size."""
    selection = {"seed": 7, "first_index": 2**64 - 50, "condition": Cycle([3, 1, 4])}
    whole = await client.generate("digits", 50, **selection)
    assert whole.index.tolist() == list(range(2**64 - 50, 2**64))
    for chunk_size in (1, 7, 49, 50, 64):
        chunks = [c async for c in client.stream("digits", 50, chunk_size=chunk_size, **selection)]
        assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_size}
        assert np.concatenate([c.image for c in chunks]).tobytes() == whole.image.tobytes()
        assert np.concatenate([c.class_id for c in chunks]).tolist() == whole.class_id.tolist()
        assert sum((c.serials for c in chunks), ()) == whole.serials


async def test_random_seed_is_returned(client):
    """Without a seed the server draws one and returns it, so images can be repeated."""
    first = await client.generate("digits", 3)
    second = await client.generate("digits", 3)
    assert first.seed != second.seed
    again = await client.generate(
        "digits", 3, seed=first.seed, condition=PerImage(first.class_id.tolist())
    )
    assert again.image.tobytes() == first.image.tobytes()
    assert again.serials == first.serials
    drawn = await client.generate("digits", 3, seed=first.seed)
    assert drawn.serials == first.serials


@pytest.mark.parametrize("model", ["plain", "styled"])
async def test_explicit_latents_equal_drawn_ones(client, model):
    """The latents of a seed, given explicitly, give the images of that seed."""
    condition = None if model == "plain" else PerImage([4, 4, 1, 0, 9])
    sampled = await client.generate(model, 5, seed=11, first_index=6, condition=condition)
    z = draw_latents(11, 6, 5, 8)
    given = await client.generate(model, 5, latents=z, first_index=6, condition=condition)
    assert given.image.tobytes() == sampled.image.tobytes()
    assert given.index.tolist() == sampled.index.tolist()
    assert given.seed is None
    assert given.serials == ()
    backwards = await client.generate(model, 1, latents=z[4:], condition=condition and 9)
    assert backwards.image.tobytes() == sampled.image[4:].tobytes()
    streamed = client.stream(model, 5, latents=z, condition=condition, chunk_size=2)
    pixels = [batch.image async for batch in streamed]
    assert np.concatenate(pixels).tobytes() == sampled.image.tobytes()


async def test_threshold_applies_to_the_latents(client):
    """A truncated image is that of the truncated latent. There is no default."""
    whole = await client.generate("bounded", 4, seed=3, condition=1)
    near = await client.generate("bounded", 4, seed=3, condition=1, truncation=0.25)
    by_hand = draw_latents(3, 0, 4, 8, threshold=0.25)
    given = await client.generate("bounded", 4, latents=by_hand, condition=1)
    assert near.image.tobytes() == given.image.tobytes() != whole.image.tobytes()
    assert near.serials[0] == "bounded@1/3/0?class=1&truncation=0.25"


async def test_psi_of_zero_is_valid(client):
    """Zero gives the mean image, and one is the default."""
    absent, zero, one = [
        await client.generate("styled", 4, seed=3, condition=1, truncation=psi)
        for psi in (None, 0.0, 1.0)
    ]
    assert len({image.tobytes() for image in zero.image}) == 1
    assert absent.image.tobytes() == one.image.tobytes() != zero.image.tobytes()
    assert absent.serials[0] == "styled@1/3/0?class=1"
    assert zero.serials[0] == "styled@1/3/0?class=1&truncation=0.0"


async def test_blocking_client_gets_the_same_images(app, client):
    """Both clients and both kinds of calls agree, also in parallel."""

    def block():
        with Client(app.grpc_address) as blocking:
            streamed = list(blocking.stream("digits", 40, seed=5, chunk_size=9))
            return blocking.generate("digits", 40, seed=5).image, streamed

    blocked, other = await asyncio.gather(
        asyncio.to_thread(block), client.generate("digits", 40, seed=5)
    )
    assert blocked[0].tobytes() == other.image.tobytes()
    assert np.concatenate([each.image for each in blocked[1]]).tobytes() == other.image.tobytes()
