"""Sources of translations, their requests, and their answers."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagemint.client.arguments import describe, parse_choice, parse_items
from imagemint.client.errors import ServerError, make_invalid_request
from imagemint.client.images import FORMATS, EncodedPicture, Origin, read_origin
from imagemint.v1 import image_pb2
from imagemint.v1 import translation_service_pb2 as messages

if TYPE_CHECKING:
    from PIL.Image import Image

File: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""The content of a PNG, JPEG or WebP, or the path of its file."""

Fit: TypeAlias = Literal["refuse", "crop", "pad", "stretch"]
"""What happens to a source of a size that the model does not take; see docs/translation.md."""

Answer: TypeAlias = messages.TranslateResponse | messages.StreamTranslateResponse
"""An answer, of a call or of a stream."""

_FITS: dict[str, messages.SourceFit.ValueType] = {
    "refuse": messages.SOURCE_FIT_REFUSE,
    "crop": messages.SOURCE_FIT_CROP,
    "pad": messages.SOURCE_FIT_PAD,
    "stretch": messages.SOURCE_FIT_STRETCH,
}
_PLANES, _PIXELS = 2, 3
_BYTES = (bytes, bytearray, memoryview)
# Of one message of a stream: far below the 4 MB of a request, and few enough that an answer soon
# follows.
_MESSAGE_BYTES = 2**20
_MESSAGE_SOURCES = 8


@dataclass(frozen=True, slots=True)
class Source:
    """A source of several files, for models of several frames or with a mask."""

    frames: Sequence[File]
    """One picture for each frame, the oldest first; all of one size."""
    mask: File | None = None
    """Picture of the same size: white where the source is to be filled. None for none."""


SourceLike: TypeAlias = "File | Source | ArrayLike | Image"
"""A file, several files, pixels uint8 [height, width] or [height, width, channels], or a Pillow
image of mode L or RGB."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Translated(Origin):
    """One translation as pixels."""

    image: NDArray[np.uint8] = field(repr=False)
    """uint8 [height, width, channels], 1 channel gray or 3 RGB; read-only."""


def check_sources(sources: Iterable[SourceLike]) -> Iterable[SourceLike]:
    """Returns the sources.

    Raises:
        InvalidRequest: they are a single source, or no sources at all.
    """
    is_single = _is_file(sources) or isinstance(sources, Source) or hasattr(sources, "getbands")
    if is_single or not isinstance(sources, Iterable) or 0 < getattr(sources, "ndim", 0) < _PIXELS:
        raise make_invalid_request("sources", f"{describe(sources)} is not a sequence of sources")
    return sources


def make_source_message(source: SourceLike, name: str) -> messages.Source:
    """Returns the message of a source; reads its files.

    Args:
        source: the source.
        name: what errors call it, such as `sources[0]`.

    Raises:
        InvalidRequest: a source is neither a file nor an array of the right type and shape.
        OSError: a file cannot be read.
    """
    if isinstance(source, Source):
        mask = b"" if source.mask is None else _read(source.mask, f"{name}.mask")
        if _is_file(source.frames):
            raise make_invalid_request(f"{name}.frames", "one file is not a sequence of files")
        frames = parse_items(f"{name}.frames", source.frames, "files")
        pictures = [_read(each, f"{name}.frames[{at}]") for at, each in enumerate(frames)]
        return messages.Source(encoded=messages.EncodedSource(pictures=pictures, mask=mask))
    if _is_file(source):
        return messages.Source(encoded=messages.EncodedSource(pictures=[_read(source, name)]))
    return _make_raw_message(source, name)


def _make_raw_message(source: Any, name: str) -> messages.Source:  # noqa: ANN401 - any array
    mode = getattr(source, "mode", "") if hasattr(source, "getbands") else ""
    if mode not in ("", "L", "RGB"):  # the pixels of mode P, for example, are no colours
        raise make_invalid_request(name, f"a Pillow image of mode {mode}; convert it to L or RGB")
    try:
        pixels = np.asarray(source)
    except (TypeError, ValueError) as error:  # rows of several lengths, or a tensor on a GPU
        raise make_invalid_request(name, f"no array: {error}") from None
    if pixels.dtype == object:
        raise make_invalid_request(name, f"{describe(source)} is neither a file, a path nor pixels")
    if pixels.ndim == _PLANES:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != _PIXELS or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise make_invalid_request(name, f"pixels are uint8 [height, width, channels], not {found}")
    height, width, channels = pixels.shape
    message = messages.Source(raw=messages.RawSource(pixels=pixels.tobytes()))
    message.raw.shape.height, message.raw.shape.width = height, width
    message.raw.shape.channels = channels
    return message


def _is_file(source: object) -> TypeGuard[File]:
    """Returns whether a source is a path, or bytes: a memoryview with more axes has pixels."""
    if isinstance(source, memoryview):
        return source.ndim == 1
    return isinstance(source, bytes | bytearray | str | os.PathLike)


def _read(file: File, name: str) -> bytes:
    if not _is_file(file):
        raise make_invalid_request(
            name, f"{describe(file)} is neither the bytes of a file nor its path"
        )
    return bytes(file) if isinstance(file, _BYTES) else Path(file).read_bytes()


def parse_fit(fit: Fit) -> messages.SourceFit.ValueType:
    """Returns the protobuf value of a fit.

    Raises:
        InvalidRequest: the fit is unknown.
    """
    return parse_choice("fit", fit, _FITS)


def parse_translated(answer: Answer) -> list[Translated]:
    """Returns the pixels of a RAW answer.

    Raises:
        ServerError: the number of bytes does not match the shape.
    """
    found = []
    for each in answer.batch.translations:
        shape = (each.shape.height, each.shape.width, each.shape.channels)
        if answer.batch.format != image_pb2.IMAGE_FORMAT_RAW or len(each.picture) != np.prod(shape):
            raise ServerError(
                f"the server sent {len(each.picture)} bytes for a raw image of shape {shape}",
                reason="MALFORMED_ANSWER",
            )
        pixels = np.frombuffer(each.picture, np.uint8).reshape(shape)
        found.append(
            Translated(**read_origin(answer.batch, [each.image], answer.timing), image=pixels)
        )
    return found


def parse_translated_files(answer: Answer) -> list[EncodedPicture]:
    """Returns the pictures of an encoded answer.

    Raises:
        ServerError: they are not encoded.
    """
    picture_format = FORMATS.get(answer.batch.format)
    if picture_format is None:
        raise ServerError("the server sent no encoded pictures", reason="MALFORMED_ANSWER")
    return [
        EncodedPicture(
            **read_origin(answer.batch, [each.image], answer.timing),
            data=each.picture,
            format=picture_format,
            height=each.shape.height,
            width=each.shape.width,
        )
        for each in answer.batch.translations
    ]


def cut_into_messages(sources: Iterable[SourceLike]) -> Iterator[list[messages.Source]]:
    """Yields the sources of each message of a stream: up to about a megabyte, at most 8.

    Raises:
        InvalidRequest, OSError: as `make_source_message`.
    """
    waiting: list[messages.Source] = []
    size = 0
    try:
        for at, source in enumerate(sources):
            message = make_source_message(source, f"sources[{at}]")
            more = message.ByteSize()
            if waiting and (size + more > _MESSAGE_BYTES or len(waiting) == _MESSAGE_SOURCES):
                yield waiting
                waiting, size = [], 0
            waiting.append(message)
            size += more
    except Exception:
        if waiting:
            yield waiting  # those before the wrong one
        raise
    if waiting:
        yield waiting
