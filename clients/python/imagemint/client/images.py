"""Answers: images as arrays or as encoded pictures, and where they come from."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from imagemint.client.errors import ServerError
from imagemint.client.requests import Format
from imagemint.v1 import image_pb2

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS: dict[int, Format] = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a call went, in seconds; parts of one call overlap those of others."""

    queue_s: float
    """From acceptance until the first image entered a batch."""
    batch_s: float
    """From then until the last result, less `inference_s`."""
    inference_s: float
    """Inside the model, summed over the batches."""
    encode_s: float
    """Encoding pictures."""

    @classmethod
    def of(cls, message: image_pb2.Timing) -> "Timing":
        """The timing that a response holds."""
        parts = (message.queue, message.batch, message.inference, message.encode)
        return cls(*(part.ToTimedelta().total_seconds() for part in parts))


# Equality of arrays has no single truth value, so these compare by identity.
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Origin:
    """Where images come from; the fields that batches and pictures share."""

    model: str
    """Model that made them."""
    version: str
    """Its version."""
    seed: int | None
    """The reel, also when the server picked it; None for explicit latents, and for images of
    several reels."""
    bundle_sha256: str
    """SHA-256 of the bundle's model.onnx, lower-case hexadecimal."""
    variant: str
    """Variant of the model that made them, such as `fp32` or `int8`. The pixels of other variants
    are different. Empty from a server that does not name it."""
    index: NDArray[np.uint64] = field(repr=False)
    """Position on the reel, uint64 [N]."""
    class_id: NDArray[np.int64] | None = field(repr=False)
    """Class of each, int64 [N]; None for an unconditional model."""
    serials: tuple[str, ...] = field(repr=False)
    """Serial number of each; empty for explicit latents."""
    timing: Timing = field(repr=False)
    """Where the time of the call that brought them went."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageBatch(Origin):
    """Images as pixels, in order of index."""

    image: NDArray[np.uint8] = field(repr=False)
    """Pixels, uint8 [N, H, W, C], C = 1 gray or 3 RGB. A view of the received bytes: read-only."""

    def __len__(self) -> int:
        return len(self.image)

    def pil(self) -> "list[Image]":
        """The images for Pillow, mode L or RGB."""
        from PIL import Image  # noqa: PLC0415 - Pillow is slow to import and often not wanted

        gray = self.image.shape[-1] == 1
        return [Image.fromarray(each[..., 0] if gray else each) for each in self.image]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedPicture(Origin):
    """One encoded picture: of one image, or a sheet of many."""

    data: bytes = field(repr=False)
    """The file, with its provenance inside; write it unchanged to keep that."""
    format: Format
    """Encoding of `data`."""
    height: int
    """Rows of the picture."""
    width: int
    """Columns of the picture."""

    def pil(self) -> "Image":
        """The decoded picture."""
        from PIL import Image  # noqa: PLC0415 - see above

        return Image.open(io.BytesIO(self.data))


def image_batch(message: image_pb2.ImageBatch, timing: image_pb2.Timing) -> ImageBatch:
    """The pixels of a RAW batch.

    Raises:
        ServerError: the bytes do not fit the shape that the server names.
    """
    shape = (message.shape.height, message.shape.width, message.shape.channels)
    data = message.pictures[0] if len(message.pictures) == 1 else b"".join(message.pictures)
    wanted = (len(message.images), *shape)
    if len(data) != np.prod(wanted) or message.format != image_pb2.IMAGE_FORMAT_RAW:
        raise ServerError(
            f"the server sent {len(data)} bytes for {wanted[0]} raw images of shape {shape}",
            reason="MALFORMED_ANSWER",
        )
    pixels = np.frombuffer(data, dtype=np.uint8).reshape(wanted)
    return ImageBatch(**_origin(message, message.images, timing), image=pixels)


def joined(batches: Sequence[ImageBatch], positions: Sequence[int]) -> ImageBatch:
    """The images of several answers of one version, as one batch.

    Args:
        batches: one or more.
        positions: for each image, batch after batch, where it goes in the result.

    Raises:
        ServerError: the answers come from different bytes under the same version.
    """
    first = batches[0]
    if len({(each.bundle_sha256, each.variant) for each in batches}) > 1:
        raise ServerError(
            f"{first.model}@{first.version} changed between two calls", reason="BUNDLE_CHANGED"
        )
    order = np.argsort(positions)
    classes = [each.class_id for each in batches if each.class_id is not None]
    serials = [serial for each in batches for serial in each.serials]
    seeds = {each.seed for each in batches}
    timings = [each.timing for each in batches]
    return ImageBatch(
        model=first.model,
        version=first.version,
        seed=first.seed if len(seeds) == 1 else None,
        bundle_sha256=first.bundle_sha256,
        variant=first.variant,
        index=np.concatenate([each.index for each in batches])[order],
        class_id=np.concatenate(classes)[order] if classes else None,
        serials=tuple(serials[at] for at in order),
        timing=Timing(
            queue_s=sum(each.queue_s for each in timings),
            batch_s=sum(each.batch_s for each in timings),
            inference_s=sum(each.inference_s for each in timings),
            encode_s=sum(each.encode_s for each in timings),
        ),
        image=np.concatenate([each.image for each in batches])[order],
    )


def encoded_pictures(
    message: image_pb2.ImageBatch, timing: image_pb2.Timing
) -> list[EncodedPicture]:
    """The pictures of an encoded batch: one for each image, or the one sheet.

    Raises:
        ServerError: another number of pictures, or not encoded.
    """
    sheet = message.layout == image_pb2.IMAGE_LAYOUT_SHEET
    groups = [list(message.images)] if sheet else [[each] for each in message.images]
    if len(groups) != len(message.pictures) or message.format not in _FORMATS:
        raise ServerError(
            f"the server sent {len(message.pictures)} pictures for {len(groups)}, "
            f"format {image_pb2.ImageFormat.Name(message.format)}",
            reason="MALFORMED_ANSWER",
        )
    return [
        EncodedPicture(
            **_origin(message, group, timing),
            data=data,
            format=_FORMATS[message.format],
            height=message.shape.height,
            width=message.shape.width,
        )
        for group, data in zip(groups, message.pictures, strict=True)
    ]


class _Origin(TypedDict):
    """The fields of Origin, by name."""

    model: str
    version: str
    seed: int | None
    bundle_sha256: str
    variant: str
    index: NDArray[np.uint64]
    class_id: NDArray[np.int64] | None
    serials: tuple[str, ...]
    timing: Timing


def _origin(
    message: image_pb2.ImageBatch,
    images: Sequence[image_pb2.MintedImage],
    timing: image_pb2.Timing,
) -> _Origin:
    conditional = bool(images) and images[0].HasField("class_id")
    class_id = np.array([each.class_id for each in images], np.int64) if conditional else None
    return _Origin(
        model=message.model,
        version=message.version,
        seed=message.seed if message.HasField("seed") else None,
        bundle_sha256=message.bundle_sha256,
        variant=message.variant,
        index=np.array([each.index for each in images], np.uint64),
        class_id=class_id,
        serials=tuple(each.serial for each in images if each.serial),
        timing=Timing.of(timing),
    )
