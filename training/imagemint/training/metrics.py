"""How good generated images are, in the feature space of a classifier.

Features are float64 [N, d]; distances are Euclidean.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Features = NDArray[np.float64]
_CHUNK = 500  # rows of a distance matrix held at once: 240 MB against 60,000 points


def frechet_distance(a: Features, b: Features) -> float:
    """Returns the Frechet distance between the Gaussians fitted to two sets of features, 0 or more.

    Dowson & Landau (1982); as a measure of GANs: Heusel et al., "GANs Trained by a Two Time-Scale
    Update Rule Converge to a Local Nash Equilibrium" (2017).
    """
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # Tr (A B)^1/2 = Tr (A^1/2 B A^1/2)^1/2, whose matrix is symmetric: features that never fire
    # make A singular, and there a general matrix square root need not exist.
    scales, axes = np.linalg.eigh(covariance_a)
    root = axes * np.sqrt(np.maximum(scales, 0)) @ axes.T
    squares = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = np.sqrt(np.maximum(squares, 0)).sum()
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    distance = shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return float(max(distance, 0.0))  # rounding may leave a hair less


def neighbour_radii(features: Features, k: int) -> NDArray[np.float64]:
    """Returns the distance from each point to its k-th nearest other point: float64 [N]."""
    return np.concatenate(
        [
            # The nearest of all is the point itself.
            np.partition(cdist(features[i : i + _CHUNK], features), k, axis=1)[:, k]
            for i in range(0, len(features), _CHUNK)
        ]
    )


def coverage(real: Features, fake: Features, k: int = 5) -> float:
    """Returns the share of real points with a generated one within their k-th real neighbour.

    0 to 1; Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models" (2020).
    """
    radii = neighbour_radii(real, k)
    return float((nearest_distances(real, fake) < radii).mean())


def nearest_distances(points: Features, others: Features) -> NDArray[np.float64]:
    """Returns the distance from each of ``points`` to the nearest of ``others``: float64 [N]."""
    # |p - o|^2 = |p|^2 + |o|^2 - 2 p.o is exact for pixels, and as a matrix product nine times as
    # fast as cdist for 784 of them.
    squares = np.square(others).sum(axis=1)
    nearest = [
        (squares - 2 * points[i : i + _CHUNK] @ others.T).min(axis=1)
        for i in range(0, len(points), _CHUNK)
    ]
    distances: Features = np.concatenate(nearest) + np.square(points).sum(axis=1)
    return np.sqrt(np.maximum(distances, 0))


@dataclass(frozen=True)
class ClassAccuracy:
    """How often a classifier sees the class that was asked for.

    Attributes:
        mean: share over all images.
        worst: share over the images of the worst class.
        worst_class: that class.
    """

    mean: float
    worst: float
    worst_class: int


def class_accuracy(asked: NDArray[np.int64], seen: NDArray[np.int64]) -> ClassAccuracy:
    """Returns how often ``seen`` [N] is what was ``asked`` for [N]."""
    right = asked == seen
    by_class = {int(y): float(right[asked == y].mean()) for y in np.unique(asked)}
    worst = min(by_class, key=lambda y: by_class[y])
    return ClassAccuracy(float(right.mean()), by_class[worst], worst)
