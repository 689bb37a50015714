"""Distances between two distributions of features."""

import numpy as np
import torch
from numpy.typing import NDArray

Features = NDArray[np.float64]
_SUBSETS = 100
_SUBSET_SIZE = 1_000


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


def kernel_distance(a: Features, b: Features, *, seed: int = 0) -> float:
    """Returns the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3.

    The unbiased estimate, so that two samples of one distribution give about 0 and as often less
    as more; the mean over 100 pairs of subsets of 1,000 points, or of all where there are fewer.
    Binkowski et al., "Demystifying MMD GANs" (2018): the KID, where features are Inception's.

    Args:
        a: features; at least two points.
        b: likewise.
        seed: decides the subsets.
    """
    from torchmetrics.image.kid import poly_mmd  # noqa: PLC0415 - five seconds to import

    size = min(_SUBSET_SIZE, len(a), len(b))
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    found = [
        poly_mmd(
            torch.from_numpy(a[rng.permutation(len(a))[:size]]),
            torch.from_numpy(b[rng.permutation(len(b))[:size]]),
        )
        for _ in range(_SUBSETS)
    ]
    return float(torch.stack(found).mean())
