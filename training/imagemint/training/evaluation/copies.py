"""Measures how near generated images are to training images, up to a small shift.

Pixel by pixel, a copy that is shifted by a pixel is as far from its original as another image: a
plain distance finds none of 500 such digits. Therefore each image is compared with every shift of a
training image by up to a fourteenth of the size (2 pixels of 28), inside a window that all shifts
cover. Only the 16 training images that are nearest in a blurred view, under the same shifts, are
compared pixel by pixel, because all of them would take an hour.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

_SHIFT_SHARE = 14
_BLURRED_SIZE = 6  # tiles on each side of the blurred view
_CANDIDATES = 16
_BLOCK = 5_000  # training images whose blurred views are compared at a time
_CHUNK = 200  # images that are compared with their candidates at a time

Images = NDArray[np.uint8]
_Distances = NDArray[np.float32]


def find_nearest_training_images(
    images: Images, known: Images
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the distance of each image to the nearest known one, and the row of that: [N] each.

    The distance is the Euclidean one, in levels, between the middle of the image and the best
    window of the known image. Unseen real images have such a distance, too, so compare it with
    theirs.

    Args:
        images: uint8 [N, H, W, C].
        known: uint8 [M, H, W, C], M 1 or more.
    """
    margin = max(images.shape[1] // _SHIFT_SHARE, 1)
    candidates = _find_candidates(images, known, margin)
    distances, rows = np.empty(len(images)), np.empty(len(images), np.int64)
    for i in range(0, len(images), _CHUNK):
        candidate_rows = candidates[i : i + _CHUNK]
        found = _compute_least_distances(images[i : i + _CHUNK], known[candidate_rows], margin)
        best = found.argmin(axis=1)
        turn = np.arange(len(best))
        distances[i : i + _CHUNK] = np.sqrt(found[turn, best])
        rows[i : i + _CHUNK] = candidate_rows[turn, best]
    return distances, rows


def _compute_least_distances(images: Images, known: Images, margin: int) -> NDArray[np.float64]:
    """Returns the smallest squared distances [N, M] over all shifts of images and known images.

    Images are [N, ...], known images [N, M, ...]. Products of windows are exact, because sums are
    below 2^53.
    """
    height, width = images.shape[1:3]
    middle = images[:, margin : height - margin, margin : width - margin]
    ours = middle.reshape(len(images), -1).astype(np.float64)
    squares = np.square(ours).sum(axis=1)[:, np.newaxis]
    least = np.full(known.shape[:2], np.inf)
    for down, right in product(range(2 * margin + 1), repeat=2):
        window = known[
            :,
            :,
            down : down + height - 2 * margin,
            right : right + width - 2 * margin,
        ]
        theirs = window.reshape(*known.shape[:2], -1).astype(np.float64)
        cross = np.matmul(theirs, ours[:, :, np.newaxis])[..., 0]
        found = squares + np.einsum("nmp,nmp->nm", theirs, theirs) - 2 * cross
        np.minimum(least, np.maximum(found, 0), out=least)
    return least


def _find_candidates(images: Images, known: Images, margin: int) -> NDArray[np.int64]:
    """Returns the rows of the nearest known images in a blurred view: int64 [N, 16 or fewer]."""
    height, width = images.shape[1:3]
    views = [
        _blur(images[:, down : down + height - 2 * margin, right : right + width - 2 * margin])
        for down, right in product(range(2 * margin + 1), repeat=2)
    ]
    count = min(_CANDIDATES, len(known))
    rows = np.empty((len(images), 0), np.int64)
    distances = np.empty((len(images), 0), np.float32)
    for start in range(0, len(known), _BLOCK):
        block = known[start : start + _BLOCK, margin : height - margin, margin : width - margin]
        found = _compute_view_distances(views, _blur(block))
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        distances = np.concatenate([distances, found], axis=1)
        rows = np.concatenate([rows, numbers], axis=1)
        kept = np.argpartition(distances, count - 1, axis=1)[:, :count]
        distances = np.take_along_axis(distances, kept, axis=1)
        rows = np.take_along_axis(rows, kept, axis=1)
    return rows


def _compute_view_distances(
    views: list[NDArray[np.float32]], known: NDArray[np.float32]
) -> _Distances:
    """Returns squared distances [N, M] from the nearest view of each image to each known one."""
    # (-2 v, |v|^2, 1) . (k, 1, |k|^2) = |v - k|^2, in one product.
    one = np.ones((len(known), 1), np.float32)
    theirs = np.concatenate([known, one, np.square(known).sum(axis=1, keepdims=True)], axis=1)
    least = np.full((len(views[0]), len(known)), np.inf, np.float32)
    for view in views:
        one = np.ones((len(view), 1), np.float32)
        ours = np.concatenate([-2 * view, np.square(view).sum(axis=1, keepdims=True), one], axis=1)
        np.minimum(least, ours @ theirs.T, out=least)
    return least


def _blur(images: Images) -> NDArray[np.float32]:
    """Returns means over tiles, 6 or 7 on each side: float32 [N, d]."""
    tile = max(images.shape[1] // _BLURRED_SIZE, 1)
    height, width = (size - size % tile for size in images.shape[1:3])
    cut = images[:, :height, :width].astype(np.float32)
    tiles = cut.reshape(len(images), height // tile, tile, width // tile, tile, -1)
    means: NDArray[np.float32] = tiles.mean(axis=(2, 4)).reshape(len(images), -1)
    return means
