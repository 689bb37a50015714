"""Reads the sources of a request: decodes them under limits and makes them fit the model.

It takes time and memory, so it runs on encoder threads: first `measure_sources`, which reads only
headers, then, once memory is reserved and the rate is charged, `load_sources`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imagemint.engine.errors import InvalidRequest, Violation
from imagemint.engine.serial import hash_source
from imagemint.engine.spec import ModelSpec, Source
from imagemint.pictures import (
    DECODING_BYTES_PER_PIXEL,
    LARGEST_SIDE,
    PictureFormat,
    PictureRefused,
    decode,
    read_size,
)
from imagemint.server.images.fitting import Fit, SizeRefused, compute_size, fit_source
from imagemint.server.images.tiling import Tiling, plan_tiles

# A status has room for 8 KB of details, and wrong sources often have the same faults.
_MOST_FAULTS = 8
_HALF, _WHITE = 128, 255


@dataclass(frozen=True, slots=True)
class EncodedSource:
    """A source as files of pictures."""

    pictures: Sequence[bytes]
    """One for each frame, the oldest first."""
    mask: bytes = b""
    """Picture of the mask; empty for none."""


GivenSource = EncodedSource | npt.NDArray[np.uint8]
"""Files of pictures, or pixels uint8 [height, width, depth]."""


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """Limits of one request."""

    pixels: int
    """Most pixels of one picture, and of all pictures, all sources or all results of a request."""
    passes: int
    """Most sources, and most tiles of all sources."""
    raw_bytes: int
    """Most bytes of all results, if they are not encoded."""


class Measure(NamedTuple):
    """What the sources of a request take."""

    size: int
    """Bytes of all sources and results."""
    passes: int
    """Tiles of all sources. The orientation of a picture may change their number."""
    decoding_bytes: int
    """Most bytes that `load_sources` takes for files of pictures. It loads one source at a time."""


class LoadedSource(NamedTuple):
    """A source that fits the model."""

    pixels: npt.NDArray[np.uint8]
    """uint8 [height, width, depth]."""
    digest: str
    """Digest of the source in serials."""
    tiling: Tiling


class Faults:
    """Collects a few violations of sources."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    @property
    def are_many(self) -> bool:
        """Whether there are enough violations."""
        return len(self._found) >= _MOST_FAULTS

    @contextlib.contextmanager
    def record_at(self, place: str) -> Iterator[None]:
        """Records a refusal within the block as a violation of a field."""
        try:
            yield
        except (PictureRefused, SizeRefused) as error:
            self._found.append(Violation(place, str(error)))

    def raise_found(self) -> None:
        """Raises InvalidRequest if there are violations."""
        if self._found:
            raise InvalidRequest(self._found)


def measure_sources(
    given: Sequence[GivenSource],
    spec: ModelSpec,
    fit: Fit,
    limits: SourceLimits,
    picture_format: PictureFormat,
) -> Measure:
    """Returns what the sources take, from the headers of the pictures.

    Args:
        given: the sources.
        spec: a model with a source.
        fit: how to make them fit.
        limits: limits of the request.
        picture_format: encoding of the results.

    Raises:
        InvalidRequest: a picture, or all of them together, exceed a limit or do not fit.
    """
    source = _get_source(spec)
    faults = Faults()
    encoded, largest, areas, passes = 0, 0, 0, 0
    for number, given_source in enumerate(given):
        place = f"sources[{number}]"
        with faults.record_at(place):
            (height, width), pixels = _measure(place, given_source, limits.pixels, faults)
            encoded += pixels
            largest = max(largest, pixels)
            if height and width:
                fitted = _grow(height, width, source, fit)
                if math.prod(fitted) > limits.pixels:
                    raise SizeRefused(f"{fitted[1]} x {fitted[0]} pixels after fitting")
                _check_sides(fitted, source, picture_format)
                areas += math.prod(fitted)
                passes += plan_tiles(fitted[0], fitted[1], source).count
        if faults.are_many or encoded > limits.pixels:
            break
    faults.raise_found()
    if encoded > limits.pixels:
        why = (
            f"more than {limits.pixels:,} pixels in all pictures, frames and masks included; send"
            " fewer or smaller ones at a time"
        )
        raise InvalidRequest([Violation("sources", why)])
    results = areas * source.scale**2
    raw_bytes = results * spec.channels
    if areas > limits.pixels:
        why = f"{areas:,} pixels in all; a request has at most {limits.pixels:,}"
        raise InvalidRequest([Violation("sources", why)])
    if results > limits.pixels:
        why = (
            f"the results have {results:,} pixels in all, {source.scale} times the height and width"
            f" of their sources; a request has at most {limits.pixels:,}"
        )
        raise InvalidRequest([Violation("sources", why)])
    if passes > limits.passes:
        why = f"{passes:,} images and tiles; a request has at most {limits.passes:,}"
        raise InvalidRequest([Violation("sources", why)])
    if picture_format is PictureFormat.RAW and raw_bytes > limits.raw_bytes:
        why = (
            f"the results have {raw_bytes:,} bytes as RAW; a response has at most"
            f" {limits.raw_bytes:,}. Ask for PNG, JPEG or WEBP, or for fewer at a time"
        )
        raise InvalidRequest([Violation("sources", why)])
    decoding_bytes = DECODING_BYTES_PER_PIXEL * largest
    return Measure(areas * source.depth + raw_bytes, passes, decoding_bytes)


def _check_sides(fitted: tuple[int, int], source: Source, picture_format: PictureFormat) -> None:
    """Checks that the encoding has room for a result.

    Raises:
        SizeRefused: a side is too long.
    """
    height, width = (side * source.scale for side in fitted)
    largest = LARGEST_SIDE.get(picture_format)
    if largest is not None and max(height, width) > largest:
        name = picture_format.name
        raise SizeRefused(
            f"its result has {width} x {height} pixels; a side of a {name} has at most"
            f" {largest:,}. Ask for PNG"
        )


def load_sources(
    given: Sequence[GivenSource],
    spec: ModelSpec,
    fit: Fit,
    most_pixels: int,
    has_ended: Callable[[], bool],
) -> list[LoadedSource]:
    """Returns the sources, decoded and fitted.

    Args:
        given: the sources, which `measure_sources` accepts.
        spec: a model with a source.
        fit: how to make them fit.
        most_pixels: most pixels of one picture.
        has_ended: returns whether the call has ended. It is called before each source.

    Raises:
        InvalidRequest: a picture cannot be decoded, or does not fit.
        CancelledError: the call has ended.
    """
    source = _get_source(spec)
    faults = Faults()
    loaded: list[LoadedSource] = []
    for number, given_source in enumerate(given):
        if has_ended():
            raise CancelledError
        place = f"sources[{number}]"
        with faults.record_at(place):
            if isinstance(given_source, EncodedSource):
                pixels = _decode_source(place, given_source, source, most_pixels, faults)
            else:
                pixels = _round_mask(given_source) if source.has_mask else given_source
            if pixels is not None:
                pixels = fit_source(pixels, source, fit)
                tiling = plan_tiles(pixels.shape[0], pixels.shape[1], source)
                loaded.append(LoadedSource(pixels, hash_source(pixels), tiling))
        if faults.are_many:
            break
    faults.raise_found()
    return loaded


def _get_source(spec: ModelSpec) -> Source:
    if spec.source is None:
        raise ValueError(f"model {spec.name!r} takes no source")
    return spec.source


def _measure(
    place: str, given: GivenSource, most_pixels: int, faults: Faults
) -> tuple[tuple[int, int], int]:
    """Returns height and width of a source, and the pixels of all its files.

    Height and width are 0 if a violation was recorded.
    """
    if not isinstance(given, EncodedSource):
        height, width = given.shape[:2]
        if height * width > most_pixels:
            raise SizeRefused(f"{width} x {height} pixels; at most {most_pixels:,} are taken")
        return (height, width), 0
    size, pixels = (0, 0), 0
    for name, content in _list_files(given):
        with faults.record_at(f"{place}.encoded.{name}"):
            size = read_size(content, most_pixels)
            pixels += math.prod(size)
    return size, pixels


def _list_files(given: EncodedSource) -> Iterator[tuple[str, bytes]]:
    yield from ((f"pictures[{at}]", content) for at, content in enumerate(given.pictures))
    if given.mask:
        yield "mask", given.mask


def _grow(height: int, width: int, source: Source, fit: Fit) -> tuple[int, int]:
    """Returns a size at least as large as the fitted one.

    The header does not tell the orientation, which may exchange height and width, so a source that
    does not fit is not refused here.
    """
    if not source.is_free:
        return source.height, source.width
    with contextlib.suppress(SizeRefused):
        height, width = compute_size(height, width, source, fit)
    step = source.step
    return -(-height // step) * step, -(-width // step) * step


def _decode_source(
    place: str, given: EncodedSource, source: Source, most_pixels: int, faults: Faults
) -> npt.NDArray[np.uint8] | None:
    """Returns a source uint8 [height, width, depth]; None if a violation was recorded."""
    parts: list[npt.NDArray[np.uint8]] = []
    for name, content in _list_files(given):
        channels = 1 if name == "mask" else source.channels
        with faults.record_at(f"{place}.encoded.{name}"):
            pixels = decode(content, channels, most_pixels)
            if name == "mask":
                pixels = _round_mask(pixels)
            if parts and pixels.shape[:2] != parts[0].shape[:2]:
                (height, width), (h, w) = parts[0].shape[:2], pixels.shape[:2]
                raise SizeRefused(f"{w} x {h} pixels; the first picture has {width} x {height}")
            parts.append(pixels)
    if len(parts) < len(given.pictures) + bool(given.mask):
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _round_mask(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns a source whose last channel, the mask, is 0 or 255."""
    rounded = pixels.copy()
    rounded[..., -1] = np.where(pixels[..., -1] < _HALF, 0, _WHITE)
    return rounded


def check_parts(
    place: str, given: GivenSource, source: Source, fail: Callable[[str, str], None]
) -> None:
    """Checks the number of frames, the mask and the channels of a source; reads no picture.

    Args:
        place: path of the source in its request, such as `sources[0]`.
        given: the source.
        source: what the model takes.
        fail: records a violation: field and description.
    """
    if not isinstance(given, EncodedSource):
        if given.shape[2] != source.depth:
            fail(f"{place}.raw.shape.channels", f"{given.shape[2]}; {_describe_depth(source)}")
        return
    if (found := len(given.pictures)) != source.frames:
        pictures = "1 picture" if found == 1 else f"{found} pictures"
        what = f"{pictures}; the model takes {source.frames} for each source"
        fail(f"{place}.encoded.pictures", what)
    if source.has_mask and not given.mask:
        fail(f"{place}.encoded.mask", "required: the model takes a mask with each source")
    elif given.mask and not source.has_mask:
        fail(f"{place}.encoded.mask", "the model takes no mask")


def _describe_depth(source: Source) -> str:
    """Returns how many channels the model takes, and of what."""
    text = f"the model takes {source.depth}"
    if source.frames == 1 and not source.has_mask:
        return text
    of_frames = f"{source.channels} of the picture"
    if source.frames > 1:
        of_frames = f"{source.channels} of each of {source.frames} frames"
    return f"{text}: {of_frames}{' and 1 of the mask' if source.has_mask else ''}"
