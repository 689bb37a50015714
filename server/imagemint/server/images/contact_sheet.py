"""Many images as one picture."""

import math

import numpy as np
import numpy.typing as npt


def compute_grid(count: int, columns: int | None) -> tuple[int, int]:
    """Returns rows and columns of a sheet.

    Args:
        count: images, 1 or more.
        columns: 1 to count; None takes the square root of the count, rounded up.
    """
    across = columns or math.isqrt(count - 1) + 1
    return -(-count // across), across


def tile_images(images: npt.NDArray[np.uint8], columns: int | None) -> npt.NDArray[np.uint8]:
    """Returns images uint8 [N, H, W, C] as one picture, row by row, black where none is left.

    Args:
        images: one or more.
        columns: as `compute_grid`.
    """
    count, height, width, channels = images.shape
    down, across = compute_grid(count, columns)
    tiles = np.zeros((down * across, height, width, channels), np.uint8)
    tiles[:count] = images
    return (
        tiles.reshape(down, across, height, width, channels)
        .transpose(0, 2, 1, 3, 4)
        .reshape(down * height, across * width, channels)
    )
