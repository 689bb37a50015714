"""Tests of imagemint.training.metrics against closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from imagemint.training.metrics import (
    class_accuracy,
    coverage,
    frechet_distance,
    nearest_distances,
    neighbour_radii,
)


def noise(count, dimensions, seed=0):
    """Points [count, dimensions] of a standard normal."""
    return np.random.Generator(np.random.Philox(key=[seed, 0])).normal(size=(count, dimensions))


def whitened(count, dimensions):
    """Points whose mean is exactly zero and whose covariance is exactly the identity."""
    x = noise(count, dimensions)
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_diagonal_gaussians():
    """Between diagonal Gaussians it is |m - n|^2 plus the sum of (s - t)^2."""
    x, s, t = whitened(500, 3), np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 1.0])
    shift = np.array([1.0, -2.0, 0.0])
    expected = np.square(shift).sum() + np.square(s - t).sum()
    assert frechet_distance(x * s, x * t + shift) == pytest.approx(expected)


def test_frechet_distance_of_correlated_gaussians():
    """Where covariances do not commute it is what a general matrix square root gives."""
    a, b = noise(300, 4) @ noise(4, 4, seed=1), noise(300, 4, seed=2) @ noise(4, 4, seed=3)
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    expected = shift + np.trace(of_a + of_b - 2 * sqrtm(of_a @ of_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_equals_is_zero():
    """A set has no distance from itself, and never a negative one."""
    a = noise(200, 5)
    assert 0 <= frechet_distance(a, a) < 1e-9


def test_frechet_distance_bears_dead_features():
    """Features that never fire, as after ReLU, add nothing and break nothing."""
    x, dead = whitened(500, 2), np.zeros((500, 3))
    a, b = np.hstack([x, dead]), np.hstack([3 * x, dead])
    assert frechet_distance(a, b) == pytest.approx(2 * (3 - 1) ** 2)


def test_radii_leave_the_point_out():
    """On a line of whole numbers the second neighbour is 1 away inside and 2 at the ends."""
    line = np.arange(5.0)[:, np.newaxis]
    assert neighbour_radii(line, 2).tolist() == [2, 1, 1, 1, 2]


def test_coverage_of_equals_is_one():
    """A set covers itself wholly."""
    real = noise(700, 8)
    assert coverage(real, real) == 1.0


def test_coverage_of_strangers_is_zero():
    """Points far away cover nothing."""
    assert coverage(noise(50, 3), noise(50, 3) + 100) == 0.0


def test_coverage_counts_real_points():
    """One generated point covers those real ones in whose ball it lies, on the rim not."""
    real = np.array([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0]])
    assert coverage(real, np.array([[0.5]]), k=1) == pytest.approx(2 / 6)
    assert coverage(real, np.array([[3.0]]), k=1) == 0.0


def test_nearest_distances_are_euclidean():
    """In several chunks they equal those of an independent routine, and a copy is at exactly 0."""
    points, others = np.round(128 * noise(1_100, 16)), np.round(128 * noise(90, 16, seed=5))
    others[7] = points[1_050]
    found = nearest_distances(points, others)
    assert found == pytest.approx(cdist(points, others).min(axis=1))
    assert found[1_050] == 0


def test_accuracy_names_the_worst_class():
    """The mean is over images, the worst over classes."""
    asked = np.array([0, 0, 0, 0, 1, 1])
    found = class_accuracy(asked, np.array([0, 0, 0, 0, 1, 0]))
    assert (found.mean, found.worst, found.worst_class) == (pytest.approx(5 / 6), 0.5, 1)
