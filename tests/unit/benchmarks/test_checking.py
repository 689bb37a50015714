"""Tests of the check that a server computes the right pictures."""

import time

import numpy as np
import pytest
from peers.checking import SEED, NotReady, Truth, check_answer
from tiny_bundles import write_bundle

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_classes, draw_latents

ASK = parse_mix("count=3").kinds[0]


class Running:
    """A server process that runs."""

    ended: int | None = None


@pytest.fixture
def bundle(tmp_path):
    """A tiny bundle."""
    return read_bundle(write_bundle(tmp_path / "models"))


@pytest.fixture
def truth(bundle):
    """The graph of the bundle in a plain session."""
    return Truth(bundle.directory / "model.onnx", bundle.spec)


@pytest.fixture
def images(bundle):
    """The images that the engine computes of the same latents."""
    spec = bundle.spec
    instance = OnnxBackend(bundle, device="cpu").open_instance()
    z = draw_latents(SEED, 0, 3, spec.z_dim)
    return np.array(instance.run(Batch(z, draw_classes(SEED, 0, 3, spec.num_classes))))


def make_answers(*answers):
    """Returns a function that gives these answers, or raises them, in order."""
    left = iter(answers)

    async def ask_once(ask):
        assert ask == ASK
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask_once


async def test_server_is_asked_until_it_answers(truth, images):
    """A server that is not ready yet is no error."""
    answers = make_answers(CallFailed("UNAVAILABLE"), images)
    await check_answer(answers, ASK, truth, Running(), time.monotonic() + 60)


async def test_other_picture_is_an_error(truth, images):
    """A pixel that is two levels off is an error, and one level is not."""
    near, far = (np.clip(images.astype(int) + by, 0, 255).astype(np.uint8) for by in (1, 2))
    await check_answer(make_answers(near), ASK, truth, Running(), time.monotonic() + 60)
    with pytest.raises(ValueError, match="levels off"):
        await check_answer(make_answers(far), ASK, truth, Running(), time.monotonic() + 60)


async def test_other_shape_is_an_error(truth, images):
    """Two images for a request of three are an error."""
    with pytest.raises(ValueError, match="instead of"):
        await check_answer(make_answers(images[:2]), ASK, truth, Running(), time.monotonic() + 60)


async def test_dead_server_is_an_error(truth):
    """A dead server fails at once with its status, and a silent one at the timeout."""
    dead = Running()
    dead.ended = 3
    with pytest.raises(NotReady, match="status 3"):
        await check_answer(
            make_answers(CallFailed("GONE")), ASK, truth, dead, time.monotonic() + 60
        )
    with pytest.raises(NotReady, match="GONE"):
        await check_answer(make_answers(CallFailed("GONE")), ASK, truth, Running(), 0)
