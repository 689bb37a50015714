"""Makes contact sheets: pictures that show many images."""

import math

import numpy as np
import numpy.typing as npt


def compute_grid(count: int, columns: int | None) -> tuple[int, int]:
    """Returns the numbers of rows and columns of a contact sheet.

    Args:
        count: number of images, 1 or more.
        columns: 1 to count. Default: the square root of the count, rounded up.
    """
    across = columns or math.isqrt(count - 1) + 1
    return -(-count // across), across


def tile_images(images: npt.NDArray[np.uint8], columns: int | None) -> npt.NDArray[np.uint8]:
    """Returns one picture of the images uint8 [N, H, W, C], row by row; unused tiles are black.

    Args:
        images: uint8 [N, H, W, C], N 1 or more.
        columns: as in `compute_grid`.
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
