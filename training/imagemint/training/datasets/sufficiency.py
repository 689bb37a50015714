"""Checks whether there are enough pictures for each part of training and evaluation.

A part with too few pictures is left out, with a warning before the first step, or refused.
"""

from collections.abc import Sequence

import numpy as np

from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import DatasetError

VARIETY = 2
"""Pictures of a class that the collapse watch needs to measure a difference."""
NEIGHBOURS = 5
"""Neighbours whose distance is the radius of a neighbourhood: coverage, precision and recall."""
COMPARABLE = NEIGHBOURS + 1
"""Smallest number of pictures of each kind for an evaluation: a point and its neighbours."""
STEADY = 1_000
"""Number of test pictures below which distances are mostly noise."""
_SHOWN = 5


def find_shortages(data: LabelledImages, batch_size: int, *, by_class: bool) -> list[str]:
    """Returns sentences about the parts that a run omits because of too few training pictures.

    Args:
        data: training pictures.
        batch_size: batch size of the run.
        by_class: whether variety is compared within each class.
    """
    warnings = []
    if len(data) < batch_size:
        warnings.append(
            f"{len(data)} training pictures are fewer than a batch of {batch_size}, so each batch"
            " shows some of them twice; --batch-size sets it"
        )
    counts = np.bincount(data.labels, minlength=len(data.class_labels))
    empty = [data.class_labels[label] for label in np.flatnonzero(counts == 0)]
    if empty:
        warnings.append(f"no training picture of {_join_names(empty)}")
    compared = counts if by_class else np.array([len(data)])
    if compared.max() < VARIETY:
        warnings.append(
            f"no class has {VARIETY} training pictures, so variety cannot be measured and mode"
            " collapse is not watched for"
        )
    elif by_class and (few := np.flatnonzero((counts > 0) & (counts < VARIETY))).size:
        names = _join_names([data.class_labels[label] for label in few])
        warnings.append(
            f"fewer than {VARIETY} training pictures of {names}: no variety is measured"
        )
    return warnings


def find_evaluation_shortages(test: LabelledImages) -> list[str]:
    """Returns sentences about figures of an evaluation that are unreliable or missing."""
    warnings = []
    counts = np.bincount(test.labels, minlength=len(test.class_labels))
    empty = [test.class_labels[label] for label in np.flatnonzero(counts == 0)]
    if empty:
        warnings.append(f"no test picture of {_join_names(empty)}")
    if len(test) < COMPARABLE:
        warnings.append(
            f"too few test pictures for `imagemint evaluate`: {len(test)}, it needs at least"
            f" {COMPARABLE}"
        )
    elif len(test) < STEADY:
        warnings.append(
            f"with {len(test)} test pictures, fewer than {STEADY:,}, the figures of `imagemint"
            " evaluate` are noisy"
        )
    return warnings


def count_classifier_steps(count: int, epochs: int, batch_size: int) -> int:
    """Returns the number of steps of a classifier's training on this number of pictures.

    Raises:
        DatasetError: there are not enough for a single batch.
    """
    steps = epochs * count // batch_size
    if steps < 1:
        raise DatasetError(
            f"{count} training pictures in {epochs} epochs are fewer than one batch of"
            f" {batch_size}: add pictures, or set --batch-size or --epochs"
        )
    return steps


def _join_names(names: Sequence[str]) -> str:
    others = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "class" + ("es " if len(names) > 1 else " ") + ", ".join(names[:_SHOWN]) + others
