"""Tests of the restart delays of workers."""

from itertools import pairwise

import pytest

from imagemint.server.processes.restarts import FIRST_S, LONGEST_S, SETTLED_S, Restarts


def test_delay_doubles_up_to_a_limit():
    """A worker that always dies at once is restarted less and less often, but without end."""
    restarts = Restarts(chance=lambda: 0.0)
    pauses = [restarts.pause_s(0.0) for _ in range(5_000)]
    assert pauses[0] == FIRST_S
    assert pauses[-1] == LONGEST_S
    assert all(later == min(2 * sooner, LONGEST_S) for sooner, later in pairwise(pauses))


@pytest.mark.parametrize(("lived_s", "deaths"), [(SETTLED_S, 1), (SETTLED_S - 0.001, 5)])
def test_long_lifetime_resets_the_delay(lived_s, deaths):
    """After a minute of life the delay is the first one again."""
    restarts = Restarts(chance=lambda: 0.0)
    for _ in range(4):
        restarts.pause_s(1.0)
    assert restarts.pause_s(lived_s) == FIRST_S * 2 ** (deaths - 1)
    assert restarts.deaths == deaths


def test_jitter_reduces_the_delay_by_up_to_half():
    """Workers that died for the same reason do not restart at the same time."""
    assert Restarts(chance=lambda: 1.0).pause_s(0.0) == FIRST_S / 2
    assert Restarts(chance=lambda: 0.5).pause_s(0.0) == FIRST_S * 0.75
