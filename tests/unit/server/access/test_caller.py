"""Tests of imagemint.server.access.caller: how calls and streams share the rate of a client."""

import asyncio

import pytest

from imagemint.server.access.api_keys import KeyRing, compute_digest
from imagemint.server.access.caller import ANONYMOUS, Guard
from imagemint.server.errors import RateLimited, TooManyCalls


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


def test_health_checks_have_limits_of_their_own(metrics):
    """They count apart from the calls of their machine, and are made while the server is full."""
    guard, machine = Guard(metrics, max_calls=1, max_calls_per_caller=2), "10.0.0.7"
    for _ in range(2):
        guard.enter(ANONYMOUS, machine, is_health_check=True)
    with pytest.raises(TooManyCalls, match="this address"):
        guard.enter(ANONYMOUS, machine, is_health_check=True)
    guard.enter(ANONYMOUS, machine)
    with pytest.raises(TooManyCalls, match="the server"):
        guard.enter(ANONYMOUS, machine)
    guard.leave(machine, is_health_check=True)
    guard.enter(ANONYMOUS, machine, is_health_check=True)
    guard.leave(machine)
    guard.enter(ANONYMOUS, machine)
