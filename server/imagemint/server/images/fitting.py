"""Makes sources fit the size that a model takes."""

import enum

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagemint.engine.spec import Source

_WHITE = 255
_RGB = 3

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class Fit(enum.Enum):
    """Ways to handle a source of another size; see `SourceFit` in translation_service.proto."""

    REFUSE = "refuse"
    CROP = "crop"
    PAD = "pad"
    STRETCH = "stretch"


class SizeRefused(ValueError):  # noqa: N818 - the name states the condition
    """A source does not have a size that the model takes; the message says which it takes."""


def compute_size(height: int, width: int, source: Source, fit: Fit) -> tuple[int, int]:
    """Returns height and width of a source after it was made to fit.

    Args:
        height: height of the source, 1 or more.
        width: width of the source, 1 or more.
        source: the source that the model takes.
        fit: how to make it fit.

    Raises:
        SizeRefused: the size does not fit and may not be changed, or the source is too large.
    """
    if not source.is_free:
        if (height, width) != (source.height, source.width) and fit is Fit.REFUSE:
            raise SizeRefused(
                f"{width} x {height} pixels; the model takes {source.width} x {source.height}."
                " Set fit to crop, pad or stretch it"
            )
        return source.height, source.width
    step = source.step
    fitted = _fit_side(height, step, fit), _fit_side(width, step, fit)
    if fit is Fit.REFUSE and fitted != (height, width):
        raise SizeRefused(
            f"{width} x {height} pixels; the model takes multiples of {step}."
            " Set fit to crop, pad or stretch it"
        )
    if not source.is_tiled and (fitted[0] > source.height or fitted[1] > source.width):
        raise SizeRefused(
            f"{width} x {height} pixels; the model takes at most {source.width} x {source.height}"
        )
    return fitted


def _fit_side(pixels: int, step: int, fit: Fit) -> int:
    if fit is Fit.CROP:
        steps = pixels // step
    elif fit is Fit.STRETCH:
        steps = (2 * pixels + step) // (2 * step)  # the nearest
    else:
        steps = -(-pixels // step)
    if not steps and fit is Fit.CROP:
        raise SizeRefused(f"a side of {pixels} pixels; the model takes {step} or more")
    return max(1, steps) * step


def fit_source(pixels: npt.NDArray[np.uint8], source: Source, fit: Fit) -> npt.NDArray[np.uint8]:
    """Returns a source of a size that the model takes, uint8 [height, width, depth].

    Args:
        pixels: uint8 [height, width, depth], with the depth that the model takes.
        source: the source that the model takes.
        fit: how to make it fit.

    Raises:
        SizeRefused: as in `compute_size`.
    """
    height, width = pixels.shape[:2]
    size = compute_size(height, width, source, fit)
    if size == (height, width):
        return pixels
    if fit is Fit.STRETCH:
        return _resize(pixels, size, source)
    if fit is Fit.CROP:
        if source.is_free:
            return _cut_centre(pixels, size)
        return _resize(pixels, size, source, _find_box(height, width, size))
    if not source.is_free:
        ratio = min(size[0] / height, size[1] / width)
        sides = (round(height * ratio), round(width * ratio))
        scaled = [min(max(1, side), most) for side, most in zip(sides, size, strict=True)]
        pixels = _resize(pixels, (scaled[0], scaled[1]), source)
    return _surround(pixels, size, source)


def _find_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """Returns the largest centre of a source that has the aspect ratio of a size.

    It is cut while it is scaled, because a long thin source that covers the size may be huge.
    """
    box_height = min(height, width * size[0] / size[1])
    box_width = min(width, height * size[1] / size[0])
    top, left = (height - box_height) / 2, (width - box_width) / 2
    return left, top, left + box_width, top + box_height


def _resize(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], source: Source, box: Box | None = None
) -> npt.NDArray[np.uint8]:
    """Returns a source, or a box of it, in another size.

    Colours are bicubic with antialiasing, the mask takes the nearest pixel.
    """
    colours = source.frames * source.channels
    step = source.channels
    parts = [
        _resize_picture(pixels[..., start : start + step], size, box, Image.Resampling.BICUBIC)
        for start in range(0, colours, step)
    ]
    if source.has_mask:
        parts.append(_resize_picture(pixels[..., colours:], size, box, Image.Resampling.NEAREST))
    return np.concatenate(parts, axis=-1)


def _resize_picture(
    pixels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    box: Box | None,
    resampling: Image.Resampling,
) -> npt.NDArray[np.uint8]:
    picture = np.ascontiguousarray(pixels if pixels.shape[-1] == _RGB else pixels[..., 0])
    resized = np.asarray(Image.fromarray(picture).resize((size[1], size[0]), resampling, box))
    return resized if resized.ndim == _RGB else resized[..., np.newaxis]


def _cut_centre(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape, size, strict=False))
    return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]])


def _surround(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], source: Source
) -> npt.NDArray[np.uint8]:
    """Returns a source in the middle of white, where a mask is 0."""
    height, width, depth = pixels.shape
    canvas = np.full((*size, depth), _WHITE, np.uint8)
    if source.has_mask:
        canvas[..., -1] = 0
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas
