"""Computes paths through latents, for walks between serial numbers."""

import numpy as np
import numpy.typing as npt

# Below this angle between two latents, in radians, the arc and the straight line are the same.
_SMALLEST_ANGLE = 1e-4


def interpolate_latents(
    waypoints: npt.NDArray[np.float32], frames: int, *, spherical: bool
) -> npt.NDArray[np.float32]:
    """Returns latents on a path through waypoints, evenly spaced in parts between two of them.

    On a sphere, the direction moves along a great circle (Shoemake, "Animating Rotation with
    Quaternion Curves", SIGGRAPH 1985), and the length changes evenly: normal latents of many
    dimensions lie near a sphere, and the straight line between two of them passes its inside.

    Args:
        waypoints: float32 [n, z_dim], n 2 or more.
        frames: number of latents, 2 or more. The first and the last are the first and the last
            waypoint, exactly.
        spherical: whether the path is spherical; otherwise it is straight.

    Returns:
        float32 [frames, z_dim].
    """
    position = locate_frames(len(waypoints), frames)
    start = np.minimum(position.astype(np.int64), len(waypoints) - 2)
    share = (position - start)[:, None]
    before, after = waypoints[start].astype(np.float64), waypoints[start + 1].astype(np.float64)
    path = (1 - share) * before + share * after
    if spherical:
        path = _bend(path, before, after, share)
    # At a waypoint the errors of float64 vanish in the rounding, so the frame is that waypoint.
    rounded: npt.NDArray[np.float32] = path.astype(np.float32)
    return rounded


def locate_frames(waypoints: int, frames: int) -> npt.NDArray[np.float64]:
    """Returns the positions of the frames, float64 [frames]: 0 is the first waypoint, 1 the next.

    Args:
        waypoints: number of waypoints, 2 or more.
        frames: number of frames, 2 or more.
    """
    # Not linspace, whose rounding misses waypoints that a frame should meet.
    return np.arange(frames) * (waypoints - 1) / (frames - 1)


def _bend(
    straight: npt.NDArray[np.float64],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    share: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Returns the path on arcs; where an arc is not defined, the straight path.

    That is so for latents of length 0, and for two in the same or in opposite directions.
    """
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (before, after)]
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = [each / length for each, length in zip((before, after), lengths, strict=True)]
        cosine = np.sum(directions[0] * directions[1], axis=1, keepdims=True)
        angle = np.arccos(np.clip(cosine, -1, 1))
        weights = np.sin((1 - share) * angle), np.sin(share * angle)
        arc = (weights[0] * directions[0] + weights[1] * directions[1]) / np.sin(angle)
        arc *= (1 - share) * lengths[0] + share * lengths[1]
    is_curved = (angle > _SMALLEST_ANGLE) & (angle < np.pi - _SMALLEST_ANGLE)
    return np.where(is_curved, arc, straight)
