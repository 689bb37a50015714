"""The schedule of calls. It is seeded, so that two runs offer the same load."""

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np

_BLOCK = 1024  # numbers drawn at a time, which hides NumPy's cost of a call


class Purpose(IntEnum):
    """Uses of random numbers; each has its own stream."""

    ARRIVALS = 0
    KINDS = 1


def make_generator(seed: int, client: int, purpose: Purpose) -> np.random.Generator:
    """Returns the generator of one client process for one purpose, independent of all others."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, client, purpose))))


def draw_arrivals(rate: float, random: np.random.Generator) -> Iterator[float]:
    """Yields the arrival times of an endless Poisson process, in seconds from its start.

    Gaps are independent and exponential, as for independent callers. The processes of several
    clients, each with its part of the rate, add up to one of the whole rate.

    Args:
        rate: mean arrivals per second; above 0.
        random: source of the gaps.
    """
    at = 0.0
    while True:
        for gap in random.exponential(1.0 / rate, _BLOCK).tolist():
            at += gap
            yield at


def draw_kinds(shares: Sequence[float], random: np.random.Generator) -> Iterator[int]:
    """Yields positions in `shares` endlessly, each as often as its share, in random order."""
    while True:
        yield from random.choice(len(shares), size=_BLOCK, p=shares).tolist()


def derive_seed(seed: int, client: int, kind: int) -> int:
    """Returns the seed of the images that one client process requests by one kind."""
    state = np.random.SeedSequence((seed, client, kind)).generate_state(1, np.uint64)
    return int(state[0])
