"""Values that change during a run, as functions of the images seen."""

import math
from dataclasses import dataclass

from imagemint.training.recipes.options import RunOptions

ROLLBACK_FACTOR = 0.5
"""Each rollback multiplies the learning rates by this."""


@dataclass(frozen=True)
class Schedule:
    """How often a run logs and saves, and when it fails or rolls back.

    Attributes:
        log_interval: images between two rows of the log.
        snapshot_interval: images between two checkpoints, each with its grid of samples.
        collapse_grace: images before collapse is judged, because early samples are all similar.
        collapse_patience: images for which a collapse has to last to end the run.
        rollbacks: how often a run that diverged or collapsed goes back to its last good checkpoint
            and on from there with half the learning rate and another order of the data.
        divergence_factor: the run has diverged once its losses exceed the usual by this factor.
    """

    log_interval: int = 6_400
    snapshot_interval: int = 64_000
    collapse_grace: int = 128_000
    rollbacks: int = 0
    divergence_factor: float = 100.0
    collapse_patience: int = 256_000


def compute_learning_rate(recipe: RunOptions, images_seen: int, rollbacks: int = 0) -> float:
    """Returns the learning rate of G: constant, then half a cosine to zero at the end."""
    decayed = recipe.decay_share * recipe.images
    remaining = recipe.images - images_seen
    full = recipe.learning_rate * ROLLBACK_FACTOR**rollbacks
    if decayed == 0 or remaining >= decayed:
        return full
    return full * 0.5 * (1 - math.cos(math.pi * max(remaining, 0) / decayed))


def has_crossed(before: int, after: int, interval: int) -> bool:
    """Returns whether a multiple of ``interval`` is above ``before`` and not above ``after``."""
    return after // interval > before // interval
