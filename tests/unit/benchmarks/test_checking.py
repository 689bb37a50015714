"""Whether a server computes the very pictures."""

import time

import numpy as np
import pytest
from peers.checking import REEL, NotReady, Truth, check_answer
from tiny_bundles import write_bundle

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import drawn_classes, latents

ASK = parse_mix("count=3").asks[0]


class Running:
    """A server that lives on."""

    ended: int | None = None


@pytest.fixture
def bundle(tmp_path):
    """A tiny bundle."""
    return read_bundle(write_bundle(tmp_path / "models"))


@pytest.fixture
def truth(bundle):
    """Its graph in a bare session."""
    return Truth(bundle.directory / "model.onnx", bundle.spec)


@pytest.fixture
def images(bundle):
    """What our engine makes of the same latents."""
    spec = bundle.spec
    instance = OnnxBackend(bundle, device="cpu").open_instance()
    z = latents(REEL, 0, 3, spec.z_dim)
    return np.array(instance.run(Batch(z, drawn_classes(REEL, 0, 3, spec.num_classes))))


def scripted(*answers):
    """Asks a server that answers, or fails, in this order."""
    left = iter(answers)

    async def ask_once(ask):
        assert ask == ASK
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask_once


async def test_server_is_asked_until_it_answers(truth, images):
    """One that is not there yet is no error."""
    answers = scripted(CallFailed("UNAVAILABLE"), images)
    await check_answer(answers, ASK, truth, Running(), time.monotonic() + 60)


async def test_other_picture_is_an_error(truth, images):
    """One pixel that is two levels off is enough, one level is not."""
    near, far = (np.clip(images.astype(int) + by, 0, 255).astype(np.uint8) for by in (1, 2))
    await check_answer(scripted(near), ASK, truth, Running(), time.monotonic() + 60)
    with pytest.raises(ValueError, match="levels off"):
        await check_answer(scripted(far), ASK, truth, Running(), time.monotonic() + 60)


async def test_other_shape_is_an_error(truth, images):
    """Two images are no answer to a request for three."""
    with pytest.raises(ValueError, match="instead of"):
        await check_answer(scripted(images[:2]), ASK, truth, Running(), time.monotonic() + 60)


async def test_server_that_ended_is_given_up(truth):
    """At once, with its status; a silent one when the time is over."""
    dead = Running()
    dead.ended = 3
    with pytest.raises(NotReady, match="status 3"):
        await check_answer(scripted(CallFailed("GONE")), ASK, truth, dead, time.monotonic() + 60)
    with pytest.raises(NotReady, match="GONE"):
        await check_answer(scripted(CallFailed("GONE")), ASK, truth, Running(), 0)
