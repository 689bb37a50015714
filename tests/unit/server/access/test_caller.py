"""Tests of imagemint.server.access.caller: how calls and streams share the rate of a client."""

import asyncio

import pytest

from imagemint.server.access.api_keys import KeyRing, compute_digest
from imagemint.server.access.caller import Guard
from imagemint.server.errors import RateLimited


@pytest.fixture
def caller(tmp_path, metrics):
    """A caller with a burst of 10 images and a rate near zero."""
    path = tmp_path / "keys.toml"
    limits = "rate_images_per_s = 0.001\nburst_images = 10\n"
    path.write_text(f'[[key]]\nname = "a"\nsha256 = "{compute_digest("imk_a")}"\n{limits}')
    guard = Guard(metrics, KeyRing(path))
    return guard.identify("/imagemint.v1.GenerationService/Generate", [("x-api-key", "imk_a")])


async def test_streams_leave_half_of_a_burst_to_single_calls(caller):
    """A stream of a client has to wait while single calls of the client are still served."""
    await caller.pace(5, lambda: None)
    assert not caller.charge_ahead(1)
    waiting = asyncio.create_task(caller.pace(1, lambda: None))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    caller.charge(5)
    with pytest.raises(RateLimited):
        caller.charge(1)
