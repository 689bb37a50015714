"""Finds near points of a feature space.

Distances are Euclidean. Every function takes features float64 [N, d]. Its documentation states
whether the rim belongs to a ball, because equal points are on it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from imagemint.training.errors import DatasetError
from imagemint.training.metrics.distances import Features

_CHUNK = 500  # rows of a distance matrix in memory at a time: 240 MB for 60,000 points


def compute_neighbour_radii(features: Features, k: int) -> NDArray[np.float64]:
    """Returns the distance from each point to its k-th nearest other point: float64 [N].

    Raises:
        DatasetError: there are k points or fewer.
    """
    if len(features) <= k:
        raise DatasetError(
            f"{len(features)} images are too few: a neighbourhood of k = {k} needs at least {k + 1}"
        )
    return np.concatenate(
        [
            # The nearest point is the point itself.
            np.partition(cdist(features[i : i + _CHUNK], features), k, axis=1)[:, k]
            for i in range(0, len(features), _CHUNK)
        ]
    )


def coverage(real: Features, fake: Features, k: int = 5) -> float:
    """Returns the share of real points with a generated one within their k-th real neighbour.

    0 to 1. The rim does not belong to the ball, as in the authors' code. Naeem et al., "Reliable
    Fidelity and Diversity Metrics for Generative Models" (2020), equation 6.

    Args:
        real: at least k + 1 points.
        fake: as many as the real ones, because the nearest of more points is nearer.
        k: neighbours.

    Raises:
        DatasetError: too few real points.
    """
    radii = compute_neighbour_radii(real, k)
    covered = 0
    for i in range(0, len(real), _CHUNK):
        nearest = cdist(real[i : i + _CHUNK], fake).min(axis=1)
        covered += int((nearest < radii[i : i + _CHUNK]).sum())
    return covered / len(real)


def find_nearest_neighbours(
    points: Features, others: Features
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the distance of ``points`` to the nearest of ``others``, and its row: [N] each."""
    # |p - o|^2 = |p|^2 + |o|^2 - 2 p.o is exact for pixels, and as a matrix product nine times as
    # fast as cdist for 784 of them.
    squares = np.square(others).sum(axis=1)
    distances, rows = np.empty(len(points)), np.empty(len(points), np.int64)
    for i in range(0, len(points), _CHUNK):
        chunk = points[i : i + _CHUNK]
        found = squares - 2 * chunk @ others.T
        nearest = found.argmin(axis=1)
        rows[i : i + _CHUNK] = nearest
        distances[i : i + _CHUNK] = np.take_along_axis(found, nearest[:, np.newaxis], axis=1)[:, 0]
    distances += np.square(points).sum(axis=1)
    return np.sqrt(np.maximum(distances, 0)), rows


@dataclass(frozen=True)
class Neighbourhoods:
    """Overlap of the neighbourhoods of two sets.

    Attributes:
        precision: share of generated points in the ball of a real one, 0 to 1.
        recall: share of real points in the ball of a generated one, 0 to 1.
        density: number of real balls that contain a generated point, divided by k. It is about 1
            for real data, and, unlike precision, does not depend on a single outlier.
    """

    precision: float
    recall: float
    density: float


def measure_neighbourhoods(real: Features, fake: Features, k: int = 5) -> Neighbourhoods:
    """Returns precision, recall and density, with balls up to a point's k-th neighbour.

    Precision and recall count a point on the rim (equation 1 of Kynkaanniemi et al., "Improved
    Precision and Recall Metric for Assessing Generative Models", 2019, has "at most"), so that
    coinciding points are inside a ball of radius 0. Density does not (Naeem et al., "Reliable
    Fidelity and Diversity Metrics for Generative Models", 2020, and their code).

    Args:
        real: at least k + 1 points.
        fake: as many, because the figures depend on the numbers.
        k: neighbours.

    Raises:
        DatasetError: too few points on either side.
    """
    real_radii, fake_radii = compute_neighbour_radii(real, k), compute_neighbour_radii(fake, k)
    balls, precise = np.zeros(len(fake), np.int64), np.zeros(len(fake), bool)
    recalled = np.zeros(len(real), bool)
    for i in range(0, len(real), _CHUNK):
        distances = cdist(real[i : i + _CHUNK], fake)
        radii = real_radii[i : i + _CHUNK, np.newaxis]
        balls += (distances < radii).sum(axis=0)
        precise |= (distances <= radii).any(axis=0)
        recalled[i : i + _CHUNK] = (distances <= fake_radii).any(axis=1)
    return Neighbourhoods(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
    )


def two_sample_accuracy(a: Features, b: Features) -> float:
    """Returns how often the nearest neighbour of a point is of the point's own set: 0 to 1.

    It is 0.5 for indistinguishable sets, 1 for separate sets, and below 0.5 if they copy each
    other. Lopez-Paz & Oquab, "Revisiting Classifier Two-Sample Tests" (2017), with one neighbour.
    Of several equally near neighbours the share that is of the point's own set counts.

    Args:
        a: points.
        b: as many points, because a larger set would be nearer.

    Raises:
        ValueError: the sets differ in size.
    """
    if len(a) != len(b):
        raise ValueError(f"sets of {len(a)} and {len(b)} points; they must be of one size")
    points, first = np.concatenate([a, b]), np.arange(2 * len(a)) < len(a)
    right = 0.0
    for i in range(0, len(points), _CHUNK):
        distances = cdist(points[i : i + _CHUNK], points)
        rows = np.arange(len(distances))
        distances[rows, i + rows] = np.inf
        nearest = distances == distances.min(axis=1, keepdims=True)
        own = nearest & (first[np.newaxis] == first[i : i + _CHUNK, np.newaxis])
        right += float((own.sum(axis=1) / nearest.sum(axis=1)).sum())
    return right / len(points)
