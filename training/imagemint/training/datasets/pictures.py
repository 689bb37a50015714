"""From encoded pictures to arrays of one size."""

import io
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from imagemint.training.errors import DatasetError

_log = logging.getLogger(__name__)

_WORKERS = 4
HELD_OUT = 10
"""Every tenth picture of a class is for testing, where nobody divided them."""
_NAMED = 3


@dataclass(frozen=True)
class Shape:
    """What pictures are brought to.

    Attributes:
        size: height and width in pixels: the shorter side is scaled to it, the longer one cropped
            around the middle. None: as stored, and all must have one size.
        channels: 1 for gray, 3 for RGB. None: gray when all are stored gray, else RGB.
    """

    size: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DatasetError(f"a picture cannot have {self.size} pixels a side")
        if self.channels not in (None, 1, 3):
            raise DatasetError(f"pictures have 1 or 3 channels, not {self.channels}")

    def __str__(self) -> str:
        return f"{self.size or 'as stored'}, {self.channels or 'as stored'}"


AS_STORED = Shape()


def decoded(encoded: bytes | Path | None) -> Image.Image:
    """Returns a picture, turned as its EXIF says, transparency laid on white, gray or RGB.

    Raises:
        DatasetError: unreadable, incomplete, or too large to be meant.
    """
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded or b"")) as it:
            it.load()
            # Asking every picture for its EXIF would take as long as decoding it.
            picture = ImageOps.exif_transpose(it) if "exif" in it.info else it.copy()
    except UnidentifiedImageError as error:  # whose own text names an address in memory
        raise DatasetError("unreadable picture (of no known format)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # SyntaxError is Pillow's for a broken PNG.
        raise DatasetError(f"unreadable picture ({error})") from error
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return picture if picture.mode == "L" else picture.convert("L" if _is_gray(picture) else "RGB")


def _is_gray(picture: Image.Image) -> bool:
    return picture.mode in {"1", "L", "LA", "I", "I;16", "F"}


def decode_all(
    sources: Iterable[bytes | Path | None], shape: Shape = AS_STORED, *, workers: int = _WORKERS
) -> list[Image.Image | DatasetError]:
    """Returns the pictures, or why one cannot be read, in the order given whatever ``workers``.

    Scaled and cropped as ``shape`` says, so that no more than a few large ones are held at once.
    """

    def one(source: bytes | Path | None) -> Image.Image | DatasetError:
        try:
            return fitted(decoded(source), shape)
        except DatasetError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        return list(pool.map(one, sources))


def complain(place: object, broken: list[str], count: int, *, strict: bool) -> None:
    """Says which of so many pictures are broken, if any: the first three, and how many more.

    Raises:
        DatasetError: with ``strict``, or because all of them are.
    """
    if not broken:
        return
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    said = f"{len(broken)} of {count} pictures are broken: {'; '.join(broken[:_NAMED])}{more}"
    if strict or len(broken) == count:
        raise DatasetError(f"{place}: {said}")
    _log.warning("%s: %s; they are left out", place, said)


def fitted(picture: Image.Image, shape: Shape) -> Image.Image:
    """Returns a picture scaled, cropped and coloured as ``shape`` says."""
    if shape.size is not None and picture.size != (shape.size, shape.size):
        picture = ImageOps.fit(picture, (shape.size, shape.size), Image.Resampling.LANCZOS)
    if shape.channels is not None:
        picture = picture.convert("L" if shape.channels == 1 else "RGB")
    return picture


def stack(pictures: list[Image.Image], place: Callable[[int], str]) -> NDArray[np.uint8]:
    """Returns pictures as uint8 [N, H, W, C]: C is 1 when all are gray, else 3.

    Args:
        pictures: gray or RGB.
        place: tells where the picture of an index comes from.

    Raises:
        DatasetError: they have several sizes; the first that differs is named.
    """
    gray = all(picture.mode == "L" for picture in pictures)
    arrays = [np.asarray(picture.convert("L" if gray else "RGB")) for picture in pictures]
    for index, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise DatasetError(
                f"{place(index)}: picture of {array.shape[:2]} pixels, the first is of"
                f" {arrays[0].shape[:2]}; a size to bring them all to (--size) settles it"
            )
    if not arrays:
        return np.empty((0, 0, 0, 1), np.uint8)
    images = np.stack(arrays)
    return images[..., np.newaxis] if gray else images


def reshaped(images: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Returns images uint8 [N, H, W, C] brought to ``shape``; the same array if they have it."""
    height, width, channels = images.shape[1:]
    wanted = shape.channels or channels
    size = (shape.size, shape.size) if shape.size else (height, width)
    if (height, width, channels) == (*size, wanted):
        return images
    pictures = [
        fitted(Image.fromarray(image[..., 0] if channels == 1 else image), shape)
        for image in images
    ]
    return stack(pictures, lambda index: f"row {index}")
