"""When a worker that died is started again."""

from itertools import pairwise

import pytest

from imagemint.server.processes.restarts import FIRST_S, LONGEST_S, SETTLED_S, Restarts


def test_pause_doubles_up_to_its_bound():
    """A worker that dies at once is tried ever more rarely, but tried."""
    restarts = Restarts(chance=lambda: 0.0)
    pauses = [restarts.pause_s(0.0) for _ in range(5_000)]
    assert pauses[0] == FIRST_S
    assert pauses[-1] == LONGEST_S
    assert all(later == min(2 * sooner, LONGEST_S) for sooner, later in pairwise(pauses))


@pytest.mark.parametrize(("lived_s", "deaths"), [(SETTLED_S, 1), (SETTLED_S - 0.001, 5)])
def test_long_life_is_a_new_beginning(lived_s, deaths):
    """After a minute of life the pause is the first again."""
    restarts = Restarts(chance=lambda: 0.0)
    for _ in range(4):
        restarts.pause_s(1.0)
    assert restarts.pause_s(lived_s) == FIRST_S * 2 ** (deaths - 1)
    assert restarts.deaths == deaths


def test_chance_takes_up_to_half():
    """Workers that died of one cause do not come back at once."""
    assert Restarts(chance=lambda: 1.0).pause_s(0.0) == FIRST_S / 2
    assert Restarts(chance=lambda: 0.5).pause_s(0.0) == FIRST_S * 0.75
