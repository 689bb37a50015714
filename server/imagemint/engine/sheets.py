"""Many images as one picture."""

import math

import numpy as np
import numpy.typing as npt


def sheet(images: npt.NDArray[np.uint8], columns: int | None) -> npt.NDArray[np.uint8]:
    """Returns images uint8 [N, H, W, C] as one picture, row by row, black where none is left.

    Args:
        images: one or more.
        columns: 1 to N; None takes the square root of N, rounded up.
    """
    count, height, width, channels = images.shape
    across = columns or math.isqrt(count - 1) + 1
    down = -(-count // across)
    tiles = np.zeros((down * across, height, width, channels), np.uint8)
    tiles[:count] = images
    return (
        tiles.reshape(down, across, height, width, channels)
        .transpose(0, 2, 1, 3, 4)
        .reshape(down * height, across * width, channels)
    )
