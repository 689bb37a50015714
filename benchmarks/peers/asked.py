"""What peers are asked for, and what is in their answers, whatever the protocol.

A peer knows neither seeds nor serials, so the latents come from the client: those that imagemint's
server draws for the same reel, prepared before the clock runs.
"""

import io
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Reply, Streaming
from imagemint.engine.sampling import drawn_classes, latents
from imagemint.engine.spec import ModelSpec

# Different requests of one kind, taken in turn, as imagemint.bench.imagemint_target has them.
POOL = 512

Inputs: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Content:
    """The pictures of one answer, as they came.

    Attributes:
        payload: all of them, one after the other.
        framed: whether the length of each stands before it, uint32, little-endian. Raw pixels of
            one size need none.
    """

    payload: bytes
    framed: bool


def inputs_of(spec: ModelSpec, ask: RequestKind, reel: int, turn: int) -> Inputs:
    """Returns z float32 [N, z_dim] and class_id int64 [N, 1] of one request."""
    first = turn * ask.count
    z = latents(reel, first, ask.count, spec.z_dim, distribution=spec.distribution)
    return z, drawn_classes(reel, first, ask.count, spec.num_classes)[:, np.newaxis]


def reply_of(content: Content, ask: RequestKind, image_bytes: int) -> Reply:
    """Counts the images that came.

    Raises:
        CallFailed: not as many as were asked for.
    """
    if content.framed:
        images = len(_files(content.payload))
    else:
        images, rest = divmod(len(content.payload), image_bytes)
        images = -1 if rest else images
    if images != ask.count:
        raise CallFailed("SHORT_ANSWER", f"{len(content.payload)} bytes for {ask.count} images")
    return Reply(images, content)


def pixels_of(content: Content, ask: RequestKind, spec: ModelSpec) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an answer, uint8 [N, H, W, C]; PNG is decoded."""
    shape = (-1, spec.height, spec.width, spec.channels)
    files = _files(content.payload) if content.framed else [content.payload]
    if ask.format == "raw":
        return np.frombuffer(b"".join(files), np.uint8).reshape(shape)
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]).reshape(shape)


def no_streams() -> Streaming:
    """Peers answer a call at once, and know no streams of pictures."""
    raise CallFailed("UNIMPLEMENTED", "peers know no streams")


def _files(payload: bytes) -> list[bytes]:
    """What stands between the lengths."""
    files, at = [], 0
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4], "little")
        files.append(payload[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(payload):
        raise CallFailed("SHORT_ANSWER", f"{len(payload)} bytes end within a picture")
    return files
