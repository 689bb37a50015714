"""How good generated images are, in the feature space of a classifier.

Features are float64 [N, d]; distances are Euclidean.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

Features = NDArray[np.float64]
_CHUNK = 2_000


def frechet_distance(a: Features, b: Features) -> float:
    """Returns the Frechet distance between the Gaussians fitted to two sets of features, 0 or more.

    Dowson & Landau (1982); as a measure of GANs: Heusel et al., "GANs Trained by a Two Time-Scale
    Update Rule Converge to a Local Nash Equilibrium" (2017).
    """
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The square root of a product of covariances is real; the imaginary part is rounding.
    cross = np.trace(sqrtm(covariance_a @ covariance_b)).real
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


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
    return np.concatenate(
        [cdist(points[i : i + _CHUNK], others).min(axis=1) for i in range(0, len(points), _CHUNK)]
    )


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
