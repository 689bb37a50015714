"""Decodes pictures to arrays of one size."""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from imagemint.training.datasets.levels import is_deep, to_gray
from imagemint.training.errors import DatasetError

_log = logging.getLogger(__name__)

_WORKERS = 4
_NAMED = 3
# Encoded pictures in memory at once: enough to keep the threads busy, and with photographs of
# several megabytes still a fraction of a gigabyte.
_WINDOW = 32
# Where Pillow finds an orientation, besides TIFF files, which it turns by itself. Parsing the EXIF
# of every picture would take as long as decoding it.
_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
# A remark is made if stored sizes differ by more than this factor.
_MIXED = 4

Encoded = bytes | Path | DatasetError | None
"""A picture in a file format, a file, or the reason why there is none."""


@dataclass(frozen=True)
class Shape:
    """The shape to which pictures are converted.

    Attributes:
        size: height and width in pixels: the shorter side is scaled to it, the longer one cropped
            around the middle. None: as stored, and all must have one size.
        channels: 1 for gray, 3 for RGB. None: gray when all are stored gray, else RGB.
        halves: whether `size` is that of the left and of the right half, and each is scaled and
            cropped for itself. The width of the pictures must be even.
    """

    size: int | None = None
    channels: int | None = None
    halves: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DatasetError(f"a picture cannot have {self.size} pixels a side")
        if self.channels not in (None, 1, 3):
            raise DatasetError(f"pictures have 1 or 3 channels, not {self.channels}")

    def __str__(self) -> str:
        text = f"{self.size or 'as stored'}, {self.channels or 'as stored'}"
        return f"{text}, halves" if self.halves else text


AS_STORED = Shape()


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        picture: gray or RGB, converted to the requested shape.
        stored_size: width and height in the file, after it was turned upright.
        file: the file that it came from; None for bytes.
        sha256: SHA-256 of the file's content; empty for bytes.
    """

    picture: Image.Image
    stored_size: tuple[int, int]
    file: Path | None = None
    sha256: str = ""


def decode_picture(encoded: bytes | None) -> Image.Image:
    """Returns a picture in mode L or RGB, upright and opaque.

    The orientation of EXIF is applied, and transparent parts become white. Gray pictures stay gray,
    with or without transparency and at any depth (see `levels.to_gray`). Palettes become RGB. The
    first frame of an animation is used.

    Raises:
        DatasetError: the picture is unreadable, incomplete, implausibly large, or has values
            without a scale.
    """
    if encoded is None:
        raise DatasetError("no picture")
    try:
        with Image.open(io.BytesIO(encoded)) as it:
            it.load()
            upright = ImageOps.exif_transpose(it) if _EXIF_KEYS & it.info.keys() else it.copy()
            form = it.format
    except UnidentifiedImageError as error:  # its text contains an address in memory
        raise DatasetError("unreadable picture (of no known format)") from error
    except Exception as error:
        # For broken files, Pillow's plugins raise exceptions of any kind.
        raise DatasetError(f"unreadable picture ({error})") from error
    return to_gray(upright, form) if is_deep(upright.mode) else _composite_on_white(upright)


def _composite_on_white(picture: Image.Image) -> Image.Image:
    """Returns a picture as L or RGB, laid on white where it is transparent."""
    gray = picture.mode in {"1", "L", "LA", "La"}
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return picture if picture.mode == "L" else picture.convert("L" if gray else "RGB")


def decode_all(
    sources: Iterable[Encoded], shape: Shape = AS_STORED, *, workers: int = _WORKERS
) -> Iterator[Decoded | DatasetError]:
    """Yields the pictures, or the reason why one cannot be read, in the given order.

    Only a few are in memory at a time, so the sources may exceed the memory.
    """

    def decode(source: Encoded) -> Decoded | DatasetError:
        try:
            return _decode(source, shape)
        except DatasetError as error:
            return error

    remaining = iter(sources)
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        while window := list(islice(remaining, _WINDOW)):
            yield from pool.map(decode, window)


def _decode(source: Encoded, shape: Shape) -> Decoded:
    if isinstance(source, DatasetError):
        raise source
    if not isinstance(source, Path):
        picture = decode_picture(source)
        return Decoded(fit_picture(picture, shape), picture.size)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DatasetError(f"unreadable file ({error.strerror})") from error
    picture = decode_picture(content)
    digest = hashlib.sha256(content).hexdigest()
    return Decoded(fit_picture(picture, shape), picture.size, source, digest)


def report_broken(place: object, broken: list[str], count: int, *, strict: bool) -> None:
    """Logs the broken pictures: the first three, and the number of the others.

    Raises:
        DatasetError: with ``strict``, or if all pictures are broken.
    """
    if not broken:
        return
    others = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    message = f"{len(broken)} of {count} pictures are broken: {'; '.join(broken[:_NAMED])}{others}"
    if strict or len(broken) == count:
        raise DatasetError(f"{place}: {message}")
    _log.warning("%s: %s; they are left out", place, message)


def fit_picture(picture: Image.Image, shape: Shape) -> Image.Image:
    """Returns a picture scaled, cropped and converted to ``shape``.

    Raises:
        DatasetError: the picture has no halves, because its width is odd.
    """
    if shape.size is not None:
        fit = _fit_halves if shape.halves else _fit_square
        picture = fit(picture, shape.size)
    if shape.channels is not None:
        picture = picture.convert("L" if shape.channels == 1 else "RGB")
    return picture


def _fit_square(picture: Image.Image, size: int) -> Image.Image:
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def _fit_halves(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    if width % 2:
        raise DatasetError(
            f"the picture is {width} pixels wide; one with a source and a target side by side has"
            " an even width"
        )
    canvas = Image.new(picture.mode, (2 * size, size))
    for side in (0, 1):
        half = picture.crop((side * width // 2, 0, (side + 1) * width // 2, height))
        canvas.paste(_fit_square(half, size), (side * size, 0))
    return canvas


class Stack:
    """Collects pictures of one size in an array, which is gray until the first RGB picture.

    Args:
        capacity: largest number of pictures.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._count = 0
        self._images: NDArray[np.uint8] | None = None
        self._least, self._most = np.full(2, np.iinfo(np.int64).max), np.zeros(2, np.int64)

    def add(self, picture: Image.Image, place: str, stored_size: tuple[int, int]) -> None:
        """Adds a picture, gray or RGB.

        Args:
            picture: the picture.
            place: its origin, for errors.
            stored_size: its width and height before the conversion.

        Raises:
            DatasetError: its size differs from that of the first picture.
        """
        array = np.asarray(picture)
        array = array[..., np.newaxis] if picture.mode == "L" else array
        if self._images is None:
            # The system allocates memory on the first write, so broken pictures cost nothing.
            self._images = np.empty((self._capacity, *array.shape), np.uint8)
        elif array.shape[:2] != self._images.shape[1:3]:
            raise DatasetError(
                f"{place}: picture of {array.shape[:2]} pixels, the first is of"
                f" {self._images.shape[1:3]}; set --size to scale all of them"
            )
        if array.shape[-1] > self._images.shape[-1]:
            self._images = self._convert_colours(self._images)
        self._images[self._count] = array  # gray is broadcast to all channels
        self._count += 1
        self._least = np.minimum(self._least, stored_size)
        self._most = np.maximum(self._most, stored_size)

    def _convert_colours(self, gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
        images = np.empty((*gray.shape[:3], 3), np.uint8)
        images[: self._count] = gray[: self._count]
        return images

    def get_images(self) -> NDArray[np.uint8]:
        """Returns the pictures as uint8 [N, H, W, C]: C is 1 if all are gray, otherwise 3."""
        if self._images is None:
            return np.empty((0, 0, 0, 1), np.uint8)
        return self._images[: self._count]

    def list_remarks(self) -> tuple[str, ...]:
        """Returns remarks about the stored sizes of the pictures."""
        if not self._count or (self._most <= _MIXED * self._least).all():
            return ()
        (least_width, least_height), (most_width, most_height) = self._least, self._most
        widths, heights = f"{least_width} to {most_width}", f"{least_height} to {most_height}"
        return (f"stored sizes differ widely: {widths} pixels wide, {heights} high",)


def reshape_images(images: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Returns images uint8 [N, H, W, C] converted to ``shape``; the same array if they have it."""
    height, width, channels = images.shape[1:]
    target_channels = shape.channels or channels
    size = (shape.size, shape.size * (2 if shape.halves else 1)) if shape.size else (height, width)
    if (height, width, channels) == (*size, target_channels):
        return images
    stack = Stack(len(images))
    for row, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        stack.add(fit_picture(picture, shape), f"row {row}", picture.size)
    return stack.get_images()
