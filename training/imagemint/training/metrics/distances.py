"""Distances between two distributions of features."""

import numpy as np
from numpy.typing import NDArray

from imagemint.training.errors import DatasetError

Features = NDArray[np.float64]
_SUBSETS = 100
_SUBSET_SIZE = 1_000
_LEAST = 2  # points, because one point has no covariance and no pairs


def frechet_distance(a: Features, b: Features) -> float:
    """Returns the Frechet distance between the Gaussians fitted to two sets of features, 0 or more.

    Dowson & Landau (1982); as a measure of GANs: Heusel et al., "GANs Trained by a Two Time-Scale
    Update Rule Converge to a Local Nash Equilibrium" (2017). It grows as either set gets smaller,
    so compare it only with distances between sets of the same sizes.

    Raises:
        DatasetError: a set has fewer than two points.
    """
    _refuse_few(a, b)
    covariance_a, covariance_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # Tr (A B)^1/2 = Tr (A^1/2 B A^1/2)^1/2, whose matrix is symmetric: features that never fire
    # make A singular, and there a general matrix square root need not exist.
    scales, axes = np.linalg.eigh(covariance_a)
    root = axes * np.sqrt(np.maximum(scales, 0)) @ axes.T
    squares = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = np.sqrt(np.maximum(squares, 0)).sum()
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    distance = shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return float(max(distance, 0.0))  # rounding errors may make it slightly negative


def kernel_distance(a: Features, b: Features, *, seed: int = 0) -> float:
    """Returns the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3.

    The unbiased estimate, so that two samples of one distribution give about 0 and as often less
    as more. Binkowski et al., "Demystifying MMD GANs" (2018): the KID, where features are
    Inception's. As there, the mean over 100 pairs of subsets of 1,000 points. Where neither set has
    more than 1,000 points, a subset could only be all of them, and one estimate from all points is
    the result.

    Args:
        a: features; at least two points.
        b: as `a`.
        seed: determines the subsets.

    Raises:
        DatasetError: a set has fewer than two points.
    """
    _refuse_few(a, b)
    if max(len(a), len(b)) <= _SUBSET_SIZE:
        return _squared_discrepancy(a, b)
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    found = [
        _squared_discrepancy(*(x[rng.permutation(len(x))[:_SUBSET_SIZE]] for x in (a, b)))
        for _ in range(_SUBSETS)
    ]
    return float(np.mean(found))


def _squared_discrepancy(a: Features, b: Features) -> float:
    """Returns the unbiased estimate from all points; pairs of a point with itself do not count.

    torchmetrics has it only for sets of equal size.
    """
    within = []
    for x in (a, b):
        kernel = _compute_kernel(x, x)
        within.append((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))
    return float(sum(within) - 2 * _compute_kernel(a, b).mean())


def _compute_kernel(a: Features, b: Features) -> NDArray[np.float64]:
    base = a @ b.T / a.shape[1] + 1
    return np.asarray(base * base * base)  # a fifteenth of the time of `base**3`


def _refuse_few(*sets: Features) -> None:
    for points in sets:
        if len(points) < _LEAST:
            raise DatasetError(
                f"{len(points)} images are too few for a distance: at least {_LEAST}"
            )
