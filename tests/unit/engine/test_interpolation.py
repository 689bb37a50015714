"""Tests of imagemint.engine.interpolation."""

import numpy as np
import pytest

from imagemint.engine.interpolation import interpolate_latents, locate_frames

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.standard_normal((4, 32)).astype(np.float32)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize(("points", "frames"), [(2, 2), (2, 60), (3, 5), (4, 31)])
def test_path_passes_through_its_waypoints(points, frames, spherical):
    """A frame at a waypoint equals the waypoint bit for bit."""
    path = interpolate_latents(POINTS[:points], frames, spherical=spherical)
    assert path.shape == (frames, 32)
    assert path.dtype == np.float32
    step = (frames - 1) // (points - 1)
    assert np.array_equal(path[::step], POINTS[:points])


def test_frames_are_evenly_spaced():
    """Frames divide the path between waypoints into equal parts."""
    assert locate_frames(3, 5).tolist() == [0, 0.5, 1, 1.5, 2]


def test_arc_has_equal_angles_and_even_lengths():
    """A spherical path turns by the same angle at each step, and its length changes evenly."""
    path = interpolate_latents(POINTS[:2], 11, spherical=True).astype(np.float64)
    lengths = np.linalg.norm(path, axis=1)
    assert np.allclose(np.diff(lengths), (lengths[-1] - lengths[0]) / 10, atol=1e-5)
    directions = path / lengths[:, None]
    angles = np.arccos(np.sum(directions[1:] * directions[:-1], axis=1))
    assert np.allclose(angles, angles[0], atol=1e-4)


def test_straight_path_has_the_mean_in_its_middle():
    """The middle of a straight path is the mean of its two ends."""
    path = interpolate_latents(POINTS[:2], 3, spherical=False)
    assert np.allclose(path[1], POINTS[:2].mean(axis=0))


@pytest.mark.parametrize("other", [POINTS[0], -POINTS[0], 2 * POINTS[0], 0 * POINTS[0]])
def test_degenerate_arcs_are_straight(other):
    """The path is straight if the ends are equal, opposite or parallel, or if one end is zero."""
    path = interpolate_latents(np.stack([POINTS[0], other]), 5, spherical=True)
    assert np.isfinite(path).all()
    assert np.allclose(path[2], (POINTS[0] + other) / 2, atol=1e-6)
