"""Requests to peers and the content of their answers, for all protocols.

Peers have neither seeds nor serials, so the client sends the latents. They are those that
imagemint's server computes for the same seed, and they are prepared before the measurement.
"""

import io
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Reply, Streaming
from imagemint.engine.sampling import draw_classes, draw_latents
from imagemint.engine.spec import ModelSpec

# Different requests of one kind, used in turn, as in imagemint.bench.imagemint_target.
POOL = 512

Inputs: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Content:
    """The pictures of one answer.

    Attributes:
        payload: all pictures, concatenated.
        framed: whether each picture follows its length, uint32, little-endian. Raw pixels of one
            size need no length.
    """

    payload: bytes
    framed: bool


def make_inputs(spec: ModelSpec, kind: RequestKind, seed: int, turn: int) -> Inputs:
    """Returns z float32 [N, z_dim] and class_id int64 [N, 1] of one request."""
    first = turn * kind.count
    z = draw_latents(seed, first, kind.count, spec.z_dim, distribution=spec.distribution)
    return z, draw_classes(seed, first, kind.count, spec.num_classes)[:, np.newaxis]


def count_images(content: Content, kind: RequestKind, image_bytes: int) -> Reply:
    """Counts the images of an answer.

    Raises:
        CallFailed: the number of images is not the requested one.
    """
    if content.framed:
        images = len(_split_files(content.payload))
    else:
        images, remainder = divmod(len(content.payload), image_bytes)
        images = -1 if remainder else images
    if images != kind.count:
        raise CallFailed("SHORT_ANSWER", f"{len(content.payload)} bytes for {kind.count} images")
    return Reply(images, content)


def decode_pixels(content: Content, kind: RequestKind, spec: ModelSpec) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an answer, uint8 [N, H, W, C]; PNG is decoded."""
    shape = (-1, spec.height, spec.width, spec.channels)
    files = _split_files(content.payload) if content.framed else [content.payload]
    if kind.format == "raw":
        return np.frombuffer(b"".join(files), np.uint8).reshape(shape)
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]).reshape(shape)


def refuse_streams() -> Streaming:
    """Raises CallFailed, because peers have no streams of pictures."""
    raise CallFailed("UNIMPLEMENTED", "peers have no streams")


def _split_files(payload: bytes) -> list[bytes]:
    """Returns the files of a framed payload."""
    files, at = [], 0
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4], "little")
        files.append(payload[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(payload):
        raise CallFailed("SHORT_ANSWER", f"{len(payload)} bytes end within a picture")
    return files
