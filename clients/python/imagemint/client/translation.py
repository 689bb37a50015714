"""Sources of translations, their requests, and their answers."""

import asyncio
import io
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagemint.client.arguments import describe, parse_choice, parse_items
from imagemint.client.errors import ServerError, make_invalid_request
from imagemint.client.images import FORMATS, EncodedPicture, Origin, read_origin
from imagemint.client.picture_sizes import count_pixels
from imagemint.v1 import image_pb2
from imagemint.v1 import translation_service_pb2 as messages

if TYPE_CHECKING:
    from PIL.Image import Image

File: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""The content of a PNG, JPEG or WebP, or the path of its file."""

Picture: TypeAlias = "File | ArrayLike | Image"
"""A file, a Pillow image, or pixels: uint8 [height, width] or [height, width, 1 or 3], or, for a
mask, bool [height, width]."""

Fit: TypeAlias = Literal["refuse", "crop", "pad", "stretch"]
"""What happens to a source of a size that the model does not take; see docs/translation.md."""

Response: TypeAlias = messages.TranslateResponse | messages.StreamTranslateResponse
"""A response, of a call or of a stream."""

_FITS: dict[str, messages.SourceFit.ValueType] = {
    "refuse": messages.SOURCE_FIT_REFUSE,
    "crop": messages.SOURCE_FIT_CROP,
    "pad": messages.SOURCE_FIT_PAD,
    "stretch": messages.SOURCE_FIT_STRETCH,
}
_PLANES, _PIXELS = 2, 3
_MOST_CHANNELS = 4  # of an image: colour with alpha
_PNG_CHANNELS = (1, 3)
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_BYTES = (bytes, bytearray, memoryview)
# Of one message of a stream: far below the 4 MB and the 16 million pixels of a request, and few
# enough that an answer soon follows.
_MESSAGE_BYTES = 2**20
_MESSAGE_PIXELS = 2**22
_MESSAGE_SOURCES = 8


@dataclass(frozen=True, slots=True)
class Source:
    """A source of several pictures, for models of several frames or with a mask.

    Each picture is a file, a Pillow image, or pixels uint8 [height, width] or [height, width, 1 or
    3]. A mask may also be bool [height, width].
    """

    frames: "Sequence[Picture]"
    """One picture for each frame, the oldest first; all of one size."""
    mask: "Picture | None" = None
    """Picture of the same size: white where the source is to be filled. None for none."""


SourceLike: TypeAlias = "File | Source | ArrayLike | Image"
"""A file, a Pillow image, several pictures as a `Source`, or pixels uint8 [height, width] or
[height, width, channels], with the channels of all frames and of the mask. A Pillow image gives the
same result as its file."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Translated(Origin):
    """One translation as pixels."""

    image: NDArray[np.uint8] = field(repr=False)
    """uint8 [height, width, channels], 1 channel gray or 3 RGB; read-only."""


Sources: TypeAlias = Iterable[SourceLike] | AsyncIterable[SourceLike]
"""Sources of a stream; asynchronous ones for an `AsyncClient`."""


def check_sources(sources: Iterable[SourceLike]) -> Iterable[SourceLike]:
    """Returns the sources.

    Raises:
        InvalidRequest: they are a single source, or no sources at all.
    """
    is_single = _is_file(sources) or isinstance(sources, Source | Mapping) or _is_image(sources)
    if is_single or not isinstance(sources, Iterable) or 0 < getattr(sources, "ndim", 0) < _PIXELS:
        raise make_invalid_request("sources", f"{describe(sources)} is not a sequence of sources")
    shape: tuple[int, ...] = getattr(sources, "shape", ())
    if len(shape) == _PIXELS and shape[-1] <= _MOST_CHANNELS:  # its rows would be the sources
        why = f"an array {list(shape)} is one source; put it into a list"
        raise make_invalid_request("sources", why)
    return sources


def make_source_message(source: SourceLike, name: str) -> messages.Source:
    """Returns the message of a source; reads its files.

    Args:
        source: the source.
        name: what errors call it, such as `sources[0]`.

    Raises:
        InvalidRequest: a source is neither a picture nor an array of the right type and shape.
        OSError: a file cannot be read.
    """
    if isinstance(source, Source):
        mask = b"" if source.mask is None else _make_file(source.mask, f"{name}.mask")
        if _is_file(source.frames) or _is_image(source.frames):
            raise make_invalid_request(
                f"{name}.frames", "one picture is not a sequence of pictures"
            )
        frames = parse_items(f"{name}.frames", source.frames, "pictures")
        pictures = [_make_file(frame, f"{name}.frames[{at}]") for at, frame in enumerate(frames)]
        return messages.Source(encoded=messages.EncodedSource(pictures=pictures, mask=mask))
    if _is_file(source) or _is_image(source):
        return messages.Source(encoded=messages.EncodedSource(pictures=[_make_file(source, name)]))
    if isinstance(source, list | tuple) and any(
        _is_file(each) or _is_image(each) for each in source
    ):
        why = (
            "a list of pictures is not one source; for a model of several frames use Source(frames)"
        )
        raise make_invalid_request(name, why)
    pixels = _read_pixels(source, name)
    height, width, channels = pixels.shape
    message = messages.Source(raw=messages.RawSource(pixels=pixels.tobytes()))
    message.raw.shape.height, message.raw.shape.width = height, width
    message.raw.shape.channels = channels
    return message


def _to_array(source: object, name: str) -> NDArray[Any]:
    if isinstance(source, Origin):  # NumPy would take a batch for a sequence of sequences
        content = "data" if isinstance(source, EncodedPicture) else "image"
        kind = type(source).__name__
        why = f"{kind} is neither a file, a path nor pixels; use its {content}"
        raise make_invalid_request(name, why)
    try:
        return np.asarray(source)
    except (TypeError, ValueError) as error:  # rows of several lengths, or a tensor on a GPU
        raise make_invalid_request(name, f"no array: {error}") from None


def _read_pixels(source: object, name: str) -> NDArray[np.uint8]:
    """Returns pixels as uint8 [height, width, channels]."""
    pixels = _to_array(source, name)
    if pixels.dtype == object:
        raise make_invalid_request(name, f"{describe(source)} is neither a file, a path nor pixels")
    if pixels.ndim == _PLANES:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != _PIXELS or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise make_invalid_request(name, f"pixels are uint8 [height, width, channels], not {found}")
    return pixels


def _make_file(picture: Picture, name: str) -> bytes:
    """Returns the content of the file of a picture."""
    if _is_file(picture):
        return bytes(picture) if isinstance(picture, _BYTES) else Path(picture).read_bytes()
    if _is_image(picture):
        return _encode_image(picture, name)
    from PIL import Image  # noqa: PLC0415 - Pillow is slow to import and often not wanted

    array = _to_array(picture, name)
    pixels = _read_pixels(array * np.uint8(255) if array.dtype == np.bool_ else array, name)
    if pixels.shape[-1] not in _PNG_CHANNELS or not pixels.size:
        why = f"a picture is uint8 [height, width, 1 or 3], not {list(pixels.shape)}"
        raise make_invalid_request(name, why)
    return _encode_image(
        Image.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels), name
    )


def _encode_image(image: "Image", name: str) -> bytes:
    """Returns a Pillow image as a PNG, upright and with its colour profile and transparency.

    So the server converts it as it converts the file that the image was read from.
    """
    from PIL import ImageOps  # noqa: PLC0415 - see above

    if image.mode not in _PNG_MODES:
        why = f"a Pillow image of mode {image.mode}; convert it to 8 bits, mode L or RGB"
        raise make_invalid_request(name, why)
    file = io.BytesIO()
    try:
        ImageOps.exif_transpose(image).save(file, "PNG", compress_level=1)
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for a damaged or cut file
        why = f"the Pillow image cannot be read: {error}"
        raise make_invalid_request(name, why) from None
    return file.getvalue()


def _is_file(source: object) -> TypeGuard[File]:
    """Returns whether a source is a path, or bytes: a memoryview with more axes has pixels."""
    if isinstance(source, memoryview):
        return source.ndim == 1
    return isinstance(source, bytes | bytearray | str | os.PathLike)


def _is_image(source: object) -> "TypeGuard[Image]":
    """Returns whether a source is a Pillow image, without an import of Pillow."""
    return hasattr(source, "getbands")


def parse_fit(fit: Fit) -> messages.SourceFit.ValueType:
    """Returns the protobuf value of a fit.

    Raises:
        InvalidRequest: the fit is unknown.
    """
    return parse_choice("fit", fit, _FITS)


def parse_translated(response: Response) -> list[Translated]:
    """Returns the pixels of a RAW response.

    Raises:
        ServerError: the number of bytes does not match the shape, or see `read_origin`.
    """
    found = []
    for translation in response.batch.translations:
        shape = (translation.shape.height, translation.shape.width, translation.shape.channels)
        if response.batch.format != image_pb2.IMAGE_FORMAT_RAW or len(
            translation.picture
        ) != np.prod(shape):
            raise ServerError(
                f"the server sent {len(translation.picture)} bytes for a raw image of shape"
                f" {shape}",
                reason="MALFORMED_ANSWER",
            )
        pixels = np.frombuffer(translation.picture, np.uint8).reshape(shape)
        found.append(
            Translated(
                **read_origin(response.batch, [translation.image], response.timing), image=pixels
            )
        )
    return found


def parse_translated_files(response: Response) -> list[EncodedPicture]:
    """Returns the pictures of an encoded response.

    Raises:
        ServerError: they are not encoded, or see `read_origin`.
    """
    picture_format = FORMATS.get(response.batch.format)
    if picture_format is None:
        raise ServerError("the server sent no encoded pictures", reason="MALFORMED_ANSWER")
    return [
        EncodedPicture(
            **read_origin(response.batch, [translation.image], response.timing),
            data=translation.picture,
            format=picture_format,
            height=translation.shape.height,
            width=translation.shape.width,
        )
        for translation in response.batch.translations
    ]


def cut_into_messages(sources: Iterable[SourceLike]) -> Iterator[list[messages.Source]]:
    """Yields the sources of each message of a stream: at most 8 of a megabyte and 4 million pixels.

    A larger source has a message of its own.

    Raises:
        InvalidRequest, OSError: as `make_source_message`.
    """
    waiting: list[messages.Source] = []
    size = pixels = 0
    try:
        for at, source in enumerate(sources):
            message = make_source_message(source, f"sources[{at}]")
            more = message.ByteSize()
            area = _count_pixels(message)
            is_full = (
                size + more > _MESSAGE_BYTES
                or pixels + area > _MESSAGE_PIXELS
                or len(waiting) == _MESSAGE_SOURCES
            )
            if waiting and is_full:
                yield waiting
                waiting, size, pixels = [], 0, 0
            waiting.append(message)
            size += more
            pixels += area
    except Exception:
        if waiting:
            yield waiting  # those before the wrong one
        raise
    if waiting:
        yield waiting


def _count_pixels(source: messages.Source) -> int:
    """Returns the pixels of all files of a source; 0 for bare pixels, which its bytes limit."""
    files = (*source.encoded.pictures, source.encoded.mask)
    return sum(count_pixels(file) for file in files)


class Prepared(list[messages.Source]):
    """Sources of one call that are messages already."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """Sources of a stream that are messages already, and the message that each is part of."""

    groups: Iterator[list[messages.Source]] | AsyncIterator[list[messages.Source]]


def prepare_sources(sources: Iterable[SourceLike]) -> Prepared:
    """Returns the messages of the sources of one call; reads their files.

    Raises:
        InvalidRequest, OSError: as `make_source_message`, or they are not a sequence of sources.
    """
    return Prepared(
        make_source_message(source, f"sources[{at}]")
        for at, source in enumerate(check_sources(sources))
    )


def group_sources(
    sources: Sources | Grouped,
) -> Iterator[list[messages.Source]] | AsyncIterator[list[messages.Source]]:
    """Returns the sources of each message of a stream.

    Asynchronous sources, which may come from a camera or a queue, do not wait for each other: each
    has a message of its own.

    Raises:
        InvalidRequest: they are a single source, or no sources at all.
    """
    if isinstance(sources, Grouped):
        return sources.groups
    if isinstance(sources, AsyncIterable):
        return _send_one_by_one(sources)
    return cut_into_messages(check_sources(sources))


async def _send_one_by_one(
    sources: AsyncIterable[SourceLike],
) -> AsyncIterator[list[messages.Source]]:
    at = 0
    async for source in sources:
        yield [await asyncio.to_thread(make_source_message, source, f"sources[{at}]")]
        at += 1
