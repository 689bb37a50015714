"""Measures how much images of one class differ from each other.

A conditional generator that ignores its latent draws one image for each class. Its classes are
correct and complete, so accuracy and mode counts do not detect it. These measures do: each compares
the images of a class with as many real ones of that class.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from imagemint.training.metrics.neighbours import coverage

_GROUPS = 20  # groups of one class whose distances are averaged
_PAIR = 2

Points = NDArray[np.floating]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class ByClass:
    """One figure for each class.

    Attributes:
        mean: mean over the classes.
        worst: figure of the class with the lowest one.
        worst_class: the worst class; -1 if no class could be measured, and then both figures are
            NaN.
    """

    mean: float
    worst: float
    worst_class: int


def nearest_spread(points: Points, size: int) -> float:
    """Returns the mean distance from a point to the nearest other point, among ``size`` points.

    A point has nearer neighbours among many points than among few. The points [N, d] are therefore
    cut into groups of exactly ``size``, at most 20 of them, and the result is the mean over the
    groups. The result is NaN if there are fewer than ``size`` points, or ``size`` is below 2.
    """
    groups = min(len(points) // size, _GROUPS) if size >= _PAIR else 0
    if not groups:
        return float("nan")
    found = []
    for number in range(groups):
        group = points[number * size : (number + 1) * size]
        distances = cdist(group, group)
        np.fill_diagonal(distances, np.inf)
        found.append(distances.min(axis=1).mean())
    return float(np.mean(found))


def within_class_variety(
    fake: Points, fake_classes: Classes, real: Points, real_classes: Classes | None, *, most: int
) -> ByClass:
    """Returns the nearest-neighbour spread of each class, as a multiple of that of real images.

    It is about 1 for real images, and 0 if a class consists of copies of one image.

    Args:
        fake: generated points [N, d].
        fake_classes: their classes [N].
        real: real points [M, d].
        real_classes: their classes [M]; None compares each class with real points of any class.
        most: points of a class that are compared with each other; fewer where either side has
            fewer. Classes with fewer than two points on either side do not count.
    """
    ratios = {}
    for y in np.unique(fake_classes).tolist():
        ours = fake[fake_classes == y]
        theirs = real if real_classes is None else real[real_classes == y]
        size = min(len(ours), len(theirs), most)
        usual = nearest_spread(theirs, size)
        if usual > 0:  # neither NaN nor a class of real duplicates
            ratios[y] = nearest_spread(ours, size) / usual
    return _summarise_classes(ratios)


def class_coverage(
    fake: Points, fake_classes: Classes, real: Points, real_classes: Classes, k: int = 5
) -> ByClass:
    """Returns how much of each real class the generated images of that class cover, 0 to 1.

    `coverage` of Naeem et al. (2020), class by class, with as many generated as real points.
    Classes with k points or fewer on either side do not count.

    Args:
        fake: generated points [N, d].
        fake_classes: the requested classes [N].
        real: real points [M, d].
        real_classes: their classes [M].
        k: neighbours.
    """
    shares = {}
    for y in np.unique(real_classes).tolist():
        ours, theirs = fake[fake_classes == y], real[real_classes == y]
        size = min(len(ours), len(theirs))
        if size > k:
            shares[y] = coverage(theirs[:size], ours[:size], k)
    return _summarise_classes(shares)


def _summarise_classes(figures: dict[int, float]) -> ByClass:
    if not figures:
        return ByClass(float("nan"), float("nan"), -1)
    worst = min(figures, key=lambda y: figures[y])
    return ByClass(float(np.mean(list(figures.values()))), figures[worst], worst)
