"""Tests of arrivals, kinds and seeds, which are random and reproducible."""

from itertools import islice, takewhile

import numpy as np
import pytest

from imagemint.bench.schedule import Purpose, derive_seed, draw_arrivals, draw_kinds, make_generator


def list_arrivals(seed=1, client=0, rate=100.0, seconds=50.0):
    """Returns the arrivals of this many seconds."""
    random = make_generator(seed, client, Purpose.ARRIVALS)
    return list(takewhile(lambda at: at < seconds, draw_arrivals(rate, random)))


def test_arrivals_are_reproducible():
    """A seed gives one schedule across blocks. Another seed or client gives another one."""
    assert len(list_arrivals()) > 1024
    assert list_arrivals() == list_arrivals()
    assert list_arrivals() != list_arrivals(seed=2)
    assert list_arrivals() != list_arrivals(client=1)


def test_arrivals_are_a_poisson_process():
    """The mean and variance of counts and the deviation of gaps are those of a Poisson process."""
    times = np.array(list_arrivals(rate=200.0, seconds=200.0))
    counts = np.bincount(times.astype(int))
    assert np.mean(counts) == pytest.approx(200, rel=0.02)
    assert np.var(counts) == pytest.approx(200, rel=0.25)
    gaps = np.diff(times)
    assert np.std(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert gaps.min() > 0


def test_clients_add_up_to_the_rate():
    """Four clients at a quarter of the rate are a Poisson process of the whole rate."""
    merged = np.sort(
        np.concatenate([list_arrivals(client=n, rate=50.0, seconds=200.0) for n in range(4)])
    )
    counts = np.bincount(merged.astype(int))
    assert np.mean(counts) == pytest.approx(200, rel=0.02)
    assert np.var(counts) == pytest.approx(200, rel=0.25)


def test_kinds_follow_their_shares():
    """The order is random and the same for the same seed."""
    first, second = (
        list(islice(draw_kinds([0.8, 0.2], make_generator(3, 0, Purpose.KINDS)), 5000))
        for _ in range(2)
    )
    assert first == second
    assert np.mean(first) == pytest.approx(0.2, abs=0.02)


def test_seeds_are_distinct():
    """Client processes and kinds request different images, which a seed determines."""
    seeds = [
        derive_seed(seed, client, kind) for seed in (0, 1) for client in (0, 1) for kind in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, 1, 1) == seeds[3]
    assert all(0 <= seed < 2**64 for seed in seeds)
