"""Counts the modes of a distribution over classes, and measures how evenly they occur.

Metz et al., "Unrolled Generative Adversarial Networks" (2017), and later papers count 26,000
samples of Stacked MNIST over its thousand modes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemint.training.metrics.scores import kl_divergence

Shares = NDArray[np.float64]
_SIMULATIONS = 20


@dataclass(frozen=True)
class ModeCount:
    """Classes in a sample.

    Attributes:
        reached: classes that appear at least once.
        shares: share of each class: float64 [K].
    """

    reached: int
    shares: Shares


def count_modes(classes: NDArray[np.int64], num_classes: int) -> ModeCount:
    """Returns which of K classes appear in ``classes`` int64 [N], and how often."""
    counts = np.bincount(classes, minlength=num_classes)
    return ModeCount(int((counts > 0).sum()), counts / len(classes))


def reverse_kl(shares: Shares, real_shares: Shares) -> float:
    """Returns KL(generated | real) in nats: 0 for equal shares, infinite for an unreal class."""
    return kl_divergence(shares, real_shares)


def perfect_sampler_floor(real_shares: Shares, samples: int, *, seed: int = 0) -> float:
    """Returns the reverse KL of a perfect sampler with this number of samples, by simulation.

    It is about (K - 1) / 2N and not 0, because the number of samples is finite.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    simulated = rng.multinomial(samples, real_shares, size=_SIMULATIONS) / samples
    return float(np.mean([reverse_kl(shares, real_shares) for shares in simulated]))


def mode_floor(real_shares: Shares, samples: int) -> float:
    """Returns how many classes a perfect sampler reaches on average with this number of samples."""
    return float((1 - (1 - real_shares) ** samples).sum())
