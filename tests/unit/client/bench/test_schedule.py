"""Arrivals, kinds, reels: random, and the same every time."""

from itertools import islice, takewhile

import numpy as np
import pytest

from imagemint.bench.schedule import Purpose, arrivals, kinds, random_of, reel_of


def drawn(seed=1, client=0, rate=100.0, seconds=50.0):
    """The arrivals of so many seconds."""
    random = random_of(seed, client, Purpose.ARRIVALS)
    return list(takewhile(lambda at: at < seconds, arrivals(rate, random)))


def test_arrivals_repeat():
    """One seed is one schedule, across the blocks it is drawn in; another seed is another one."""
    assert len(drawn()) > 1024
    assert drawn() == drawn()
    assert drawn() != drawn(seed=2)
    assert drawn() != drawn(client=1)


def test_arrivals_are_a_poisson_process():
    """Counts and gaps as they must be: mean, and as much spread as mean."""
    times = np.array(drawn(rate=200.0, seconds=200.0))
    counts = np.bincount(times.astype(int))
    assert np.mean(counts) == pytest.approx(200, rel=0.02)
    assert np.var(counts) == pytest.approx(200, rel=0.25)
    gaps = np.diff(times)
    assert np.std(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert gaps.min() > 0


def test_clients_add_up_to_the_rate():
    """Four clients of a quarter are a Poisson process of the whole."""
    merged = np.sort(np.concatenate([drawn(client=n, rate=50.0, seconds=200.0) for n in range(4)]))
    counts = np.bincount(merged.astype(int))
    assert np.mean(counts) == pytest.approx(200, rel=0.02)
    assert np.var(counts) == pytest.approx(200, rel=0.25)


def test_kinds_come_as_their_shares_say():
    """In random order, the same for the same seed."""
    first, second = (
        list(islice(kinds([0.8, 0.2], random_of(3, 0, Purpose.KINDS)), 5000)) for _ in range(2)
    )
    assert first == second
    assert np.mean(first) == pytest.approx(0.2, abs=0.02)


def test_reels_differ():
    """ClientProcesses and kinds ask for different images; a seed says which."""
    reels = [reel_of(seed, client, kind) for seed in (0, 1) for client in (0, 1) for kind in (0, 1)]
    assert len(set(reels)) == len(reels)
    assert reel_of(0, 1, 1) == reels[3]
    assert all(0 <= reel < 2**64 for reel in reels)
