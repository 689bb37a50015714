"""8-bit gray levels of pictures that are stored with more than 8 bits for each pixel.

Pillow clips these modes to 0 to 255 when it converts them, which turns 16-bit pictures white and
floating-point ones black.
"""

import numpy as np
from PIL import Image

from imagemint.training.errors import DatasetError

_WHITE_8, _WHITE_16 = 255, 65_535


def is_deep(mode: str) -> bool:
    """Returns whether a Pillow mode is gray of more than 8 bits: ``I``, ``I;16*`` or ``F``."""
    return mode.startswith("I") or mode == "F"


def to_gray(picture: Image.Image, form: str | None) -> Image.Image:
    """Returns a deep gray picture scaled to 8 bits (mode ``L``), rounded to the nearest level.

    - ``I;16``: 65,535 is white.
    - ``I``: 65,535 is white as well, because Pillow reads 16-bit PGM files into it and scales them
      so. 32-bit TIFF files whose values do not exceed 255 hold 8-bit levels.
    - ``F``: 1 is white if no value exceeds 1, otherwise 255.

    Args:
        picture: picture of a mode for which `is_deep` is true.
        form: the file format that it was read from, as Pillow names it.

    Raises:
        DatasetError: a value is negative, not finite, or larger than the white of its mode.
    """
    values = np.asarray(picture)
    least, most = values.min(), values.max()
    white = _choose_white(picture.mode, form, float(most))
    if not (np.isfinite(least) and np.isfinite(most) and least >= 0 and most <= white):
        raise DatasetError(
            f"values from {least:g} to {most:g} in mode {picture.mode} have no defined black and"
            f" white; save 8-bit or 16-bit gray, or floats from 0 to 1"
        )
    if white == _WHITE_16:
        # Integer arithmetic: 65,535 = 257 * 255, and adding half a level rounds to the nearest.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    return Image.fromarray((values * (_WHITE_8 / white)).round().astype(np.uint8))


def _choose_white(mode: str, form: str | None, most: float) -> int:
    if mode == "F":
        return 1 if most <= 1 else _WHITE_8
    if mode == "I" and form == "TIFF" and most <= _WHITE_8:
        return _WHITE_8
    return _WHITE_16
