"""When to call, and for what: seeded, so that two runs offer the very same load."""

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np

_BLOCK = 1024  # drawn at a time: NumPy's cost for each call vanishes


class Purpose(IntEnum):
    """What random numbers are for; each has a stream of its own."""

    ARRIVALS = 0
    KINDS = 1


def random_of(seed: int, client: int, purpose: Purpose) -> np.random.Generator:
    """The random numbers of one client process for one purpose, independent of all others."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, client, purpose))))


def arrivals(rate: float, random: np.random.Generator) -> Iterator[float]:
    """Endless moments of a Poisson process, in seconds from its start.

    Independent exponential gaps: callers who know nothing of each other. The processes of several
    clients, each with its part of the rate, add up to one of the whole rate.

    Args:
        rate: arrivals a second, on average; above 0.
        random: where the gaps are drawn from.
    """
    at = 0.0
    while True:
        for gap in random.exponential(1.0 / rate, _BLOCK).tolist():
            at += gap
            yield at


def kinds(shares: Sequence[float], random: np.random.Generator) -> Iterator[int]:
    """Endless positions in `shares`, each as often as its share says, in random order."""
    while True:
        yield from random.choice(len(shares), size=_BLOCK, p=shares).tolist()


def reel_of(seed: int, client: int, kind: int) -> int:
    """The seed of the images that one client process asks for by one kind of request."""
    state = np.random.SeedSequence((seed, client, kind)).generate_state(1, np.uint64)
    return int(state[0])
