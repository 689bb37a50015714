"""Keeps only images with good scores: defines the candidates of an index, and which one passes.

The image at index i is the first candidate that passes. Candidate t, from 0 on, is the image of
index ``i + t * 2^48``, with the class or caption of index i. Whether it passes depends on its own
scores and, for rejection sampling, on one number of the seed's acceptance stream. So nothing
depends on the batch, on other indices of a request, or on interruptions. Each index yields one
image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from imagemint.engine.errors import FilterExhausted
from imagemint.engine.sampling import draw_acceptance_numbers
from imagemint.v1 import manifest_pb2 as pb

INDEX_END = 2**48
"""The indices of candidates are this far apart, so a filter takes indices below it."""
MOST_TRIES = 1_000
DEFAULT_TRIES = 64

_EPSILON = 1e-6  # of Azadi et al., for an image that is as good as the best of the calibration


@dataclass(frozen=True, slots=True)
class Realness:
    """Calibration of the discriminator's logit for rejection sampling."""

    maximum: float
    """Largest logit of the calibration, `M` of the paper."""
    shift: float
    """`gamma` of the paper: the larger, the fewer images pass."""


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """The scores that a bundle has."""

    class_confidence: bool = False
    realness: Realness | None = None
    training_distance: bool = False

    @classmethod
    def of(cls, critic: pb.Critic) -> "ScoreSpec":
        """Returns the scores that a manifest declares."""
        realness = critic.realness
        return cls(
            class_confidence=critic.HasField("class_confidence"),
            realness=Realness(realness.maximum, realness.shift)
            if critic.HasField("realness")
            else None,
            training_distance=critic.HasField("training_distance"),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores, which are the outputs of the graph."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of N images, each float32 [N]; None for a score that the bundle does not have."""

    class_confidence: npt.NDArray[np.float32] | None = None
    """Probability that the classifier gives to the requested class, 0 to 1."""
    realness: npt.NDArray[np.float32] | None = None
    """Calibrated logit of the discriminator."""
    training_distance: npt.NDArray[np.float32] | None = None
    """Distance to the nearest training image, in units of the median distance of test images."""

    def by_name(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the scores that are not None, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: values for name, values in found.items() if values is not None}


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Returns the scores of several parts of a batch, one or more, in order."""
    scores_by_name = [part.by_name() for part in parts]
    return Scores(
        **{
            name: np.concatenate([each[name] for each in scores_by_name])
            for name in scores_by_name[0]
        }
    )


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """The conditions that an image must pass."""

    min_class_confidence: float | None = None
    """0 to 1; None for any."""
    rejection_sampling: bool = False
    """Whether to accept with the probability of discriminator rejection sampling."""
    min_training_distance: float | None = None
    """0 or more; None for any."""
    max_tries: int = DEFAULT_TRIES
    """Most candidates of one index, 1 to `MOST_TRIES`."""

    @property
    def needs(self) -> dict[str, str]:
        """The score that each condition needs, by the name of the condition."""
        needed = {
            "min_class_confidence": ("class_confidence", self.min_class_confidence is not None),
            "rejection_sampling": ("realness", self.rejection_sampling),
            "min_training_distance": ("training_distance", self.min_training_distance is not None),
        }
        return {name: score for name, (score, is_set) in needed.items() if is_set}

    def find_faults(self) -> dict[str, str]:
        """Returns the faults of the values, by field."""
        faults = {}
        confidence, distance = self.min_class_confidence, self.min_training_distance
        if confidence is not None and not 0 <= confidence <= 1:
            faults["min_class_confidence"] = f"{confidence} is not 0 to 1"
        if distance is not None and not (0 <= distance < math.inf):
            faults["min_training_distance"] = f"{distance} is not a number of 0 or more"
        if not 1 <= self.max_tries <= MOST_TRIES:
            faults["max_tries"] = f"{self.max_tries} is not 1 to {MOST_TRIES}"
        return faults

    def accept(
        self, scores: Scores, spec: ScoreSpec, seed: int, indices: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Returns which candidates pass, bool [N].

        Args:
            scores: their scores.
            spec: the scores of the bundle.
            seed: 0 to 2^64 - 1.
            indices: their own indices, uint64 [N].
        """
        passes = np.ones(len(indices), np.bool_)
        if self.min_class_confidence is not None and scores.class_confidence is not None:
            passes &= scores.class_confidence >= self.min_class_confidence
        if self.min_training_distance is not None and scores.training_distance is not None:
            passes &= scores.training_distance >= self.min_training_distance
        if self.rejection_sampling and spec.realness and scores.realness is not None:
            chances = compute_acceptance_chances(scores.realness, spec.realness)
            passes &= draw_acceptance_numbers(seed, indices) < chances
        return passes


def compute_acceptance_chances(
    logits: npt.NDArray[np.float32], realness: Realness
) -> npt.NDArray[np.float64]:
    """Returns the probability with which each image is accepted, float64 [N].

    Azadi et al., "Discriminator Rejection Sampling" (2019), equations 8 and 9:
    ``F = D - M``, then ``sigmoid(F - log(1 - exp(F - epsilon)) - gamma)``.
    """
    below = np.minimum(logits.astype(np.float64) - realness.maximum, 0.0)
    shifted = below - np.log1p(-np.exp(below - _EPSILON)) - realness.shift
    chances: npt.NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * shifted))  # no overflow
    return chances


class Selection:
    """The search for the images of some neighbouring indices.

    Compute the candidates of `next_indices`, call `settle` with their scores, and repeat until
    `pending` is empty.

    Args:
        image_filter: the conditions.
        spec: the scores of the bundle.
        seed: 0 to 2^64 - 1.
        first_index: first index; first_index + count at most `INDEX_END`.
        count: number of indices.

    Attributes:
        pending: positions 0 to count - 1 that have no image yet, int64 [M].
        rejected: number of candidates rejected at each position, int64 [count].
    """

    def __init__(
        self, image_filter: ImageFilter, spec: ScoreSpec, seed: int, first_index: int, count: int
    ) -> None:
        self._filter = image_filter
        self._spec = spec
        self._seed = seed
        self._first_index = first_index
        self._computed = 0
        self._best: dict[str, float] = {}
        self.pending = np.arange(count)
        self.rejected = np.zeros(count, np.int64)

    @property
    def next_indices(self) -> npt.NDArray[np.uint64]:
        """Indices of the next candidates, one for each pending position, uint64 [M]."""
        return self._compute_indices(self.pending)

    @property
    def indices(self) -> npt.NDArray[np.uint64]:
        """Indices of the images that were found, or that are tried now, uint64 [count]."""
        return self._compute_indices(np.arange(len(self.rejected)))

    def settle(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """Takes the scores of the candidates of `next_indices`, and returns which pass, bool [M].

        Raises:
            FilterExhausted: an index has no candidate left.
        """
        passes = self._filter.accept(scores, self._spec, self._seed, self.next_indices)
        self._computed += len(passes)
        failed = self.pending[~passes]
        for name, values in scores.by_name().items():
            if len(failed):
                best = float(values[~passes].max())
                self._best[name] = max(best, self._best.get(name, -math.inf))
        self.rejected[failed] += 1
        self.pending = failed
        if len(failed) and self.rejected[failed[0]] >= self._filter.max_tries:
            raise self._make_exhausted_error(failed)
        return passes

    def _compute_indices(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        tries = self.rejected[positions].astype(np.uint64)
        return (positions + self._first_index).astype(np.uint64) + tries * np.uint64(INDEX_END)

    def _make_exhausted_error(self, failed: npt.NDArray[np.int64]) -> FilterExhausted:
        found = len(self.rejected) - len(failed)
        # All digits: 0.99998 rounded to 1 would seem to pass a bound of 0.99999.
        best = {name: np.float32(value) for name, value in self._best.items()}
        seen = ", ".join(f"{name} up to {value!s}" for name, value in best.items())
        return FilterExhausted(
            self._first_index + int(failed[0]), self._filter.max_tries, self._computed, found, seen
        )
