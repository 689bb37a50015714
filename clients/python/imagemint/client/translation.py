"""Sources of translations, their requests, and their answers."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagemint.client.errors import ServerError, invalid
from imagemint.client.images import FORMATS, EncodedPicture, Origin, read_origin
from imagemint.v1 import image_pb2
from imagemint.v1 import translation_service_pb2 as messages

File: TypeAlias = bytes | str | os.PathLike[str]
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


SourceLike: TypeAlias = File | Source | ArrayLike
"""A file, several files, or pixels uint8 [height, width] or [height, width, channels]."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Translated(Origin):
    """One translation as pixels."""

    image: NDArray[np.uint8] = field(repr=False)
    """uint8 [height, width, channels], 1 channel gray or 3 RGB; read-only."""


def make_source_message(source: SourceLike) -> messages.Source:
    """Returns the message of a source; reads its files.

    Raises:
        InvalidRequest: a source is neither a file nor an array of the right type and shape.
        OSError: a file cannot be read.
    """
    if isinstance(source, Source):
        mask = b"" if source.mask is None else _read(source.mask)
        pictures = [_read(each) for each in source.frames]
        return messages.Source(encoded=messages.EncodedSource(pictures=pictures, mask=mask))
    if isinstance(source, bytes | str | os.PathLike):
        return messages.Source(encoded=messages.EncodedSource(pictures=[_read(source)]))
    pixels = np.asarray(source)
    if pixels.ndim == _PLANES:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != _PIXELS or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise invalid("sources", f"pixels are uint8 [height, width, channels], not {found}")
    height, width, channels = pixels.shape
    message = messages.Source(raw=messages.RawSource(pixels=pixels.tobytes()))
    message.raw.shape.height, message.raw.shape.width = height, width
    message.raw.shape.channels = channels
    return message


def _read(file: File) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def parse_fit(fit: Fit) -> messages.SourceFit.ValueType:
    """Returns the protobuf value of a fit.

    Raises:
        InvalidRequest: the fit is unknown.
    """
    if fit not in _FITS:
        raise invalid("fit", f"{fit!r} is none of {', '.join(_FITS)}")
    return _FITS[fit]


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
        for source in sources:
            message = make_source_message(source)
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
