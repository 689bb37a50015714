"""Images of an answer, as arrays or encoded pictures, with their origin."""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex, TypedDict

import numpy as np
from numpy.typing import NDArray

from imagemint.client.arguments import describe
from imagemint.client.errors import ServerError
from imagemint.client.requests import Format
from imagemint.client.serials import MODEL_AND_VERSION
from imagemint.v1 import image_pb2, translation_service_pb2

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: dict[int, Format] = {
    image_pb2.IMAGE_FORMAT_PNG: "png",
    image_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    image_pb2.IMAGE_FORMAT_WEBP: "webp",
}
"""Encodings by their value on the wire."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of a call by phase, in seconds. Phases of different calls overlap."""

    queue_s: float
    """From acceptance until the first image enters a batch."""
    batch_s: float
    """From then until the last result, without `inference_s`."""
    inference_s: float
    """Time inside the model, summed over the batches."""
    encode_s: float
    """Time to encode the pictures."""

    @classmethod
    def of(cls, message: image_pb2.Timing) -> "Timing":
        """Returns the timing of a response."""
        parts = (message.queue, message.batch, message.inference, message.encode)
        return cls(*(part.ToTimedelta().total_seconds() for part in parts))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scores:
    """Scores of N images, each float32 [N]; None for a score that the model does not have."""

    class_confidence: NDArray[np.float32] | None = None
    """Probability that the classifier of the model gives the class of the image."""
    realness: NDArray[np.float32] | None = None
    """Calibrated logit of the discriminator: the larger, the more like a real image."""
    training_distance: NDArray[np.float32] | None = None
    """Distance to the nearest training image, in units of the median distance of test images."""
    rejected: NDArray[np.int64]
    """Number of candidates that the filter rejected before each image, int64 [N]."""

    def by_name(self) -> "dict[str, NDArray[np.float32]]":
        """Returns the scores that are not None, by name."""
        found = {name: getattr(self, name) for name in SCORE_NAMES}
        return {name: values for name, values in found.items() if values is not None}


def _select_scores(scores: Scores, rows: slice) -> Scores:
    some = {name: values[rows] for name, values in scores.by_name().items()}
    return Scores(**some, rejected=scores.rejected[rows])


SCORE_NAMES = ("class_confidence", "realness", "training_distance")
"""Names of all scores."""


# Arrays do not compare to a single truth value, so these classes compare by identity.
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Origin:
    """Origin of images: the fields that batches and pictures share."""

    model: str
    """Name of the model."""
    version: str
    """Version of the model."""
    seed: int | None
    """Seed, even if the server chose it; None for explicit latents and for images of several
    seeds."""
    bundle_sha256: str
    """SHA-256 of the bundle's model.onnx, lower-case hexadecimal."""
    variant: str
    """Variant of the model that made the images, such as `fp32` or `int8`. Other variants make
    different pixels. Empty if the server does not report it.
    """
    index: NDArray[np.uint64] = field(repr=False)
    """Index of each image, uint64 [N]."""
    class_id: NDArray[np.int64] | None = field(repr=False)
    """Class of each image, int64 [N]; None for an unconditional model."""
    serials: tuple[str, ...] = field(repr=False)
    """Serial number of each image; empty for explicit latents."""
    captions: tuple[str, ...] = field(default=(), repr=False)
    """Caption of each image: lower-case words separated by one space. Empty for a model without
    captions."""
    scores: Scores | None = field(default=None, repr=False)
    """Scores of each image; None for a request without a filter."""
    timing: Timing = field(repr=False)
    """Time of the call by phase."""

    @property
    def serial(self) -> str:
        """Serial number of the only image.

        Raises:
            ValueError: there are several images, or the image comes from explicit latents.
        """
        if len(self.index) != 1:
            raise ValueError(f"there are {len(self.index)} images; use serials")
        if not self.serials:
            raise ValueError("an image of explicit latents has no serial number")
        return self.serials[0]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageBatch(Origin):
    """Images as pixels, in order of index.

    A batch is a sequence: ``batch[3]`` and each turn of ``for one in batch`` is a batch of one
    image with its serial, class and scores; a slice is a batch of several.
    """

    image: NDArray[np.uint8] = field(repr=False)
    """Pixels, uint8 [N, H, W, C], C = 1 gray or 3 RGB. A view of the received bytes: read-only."""

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, at: SupportsIndex | slice) -> "ImageBatch":
        """Returns some of the images, without copying pixels.

        Args:
            at: a position, which may count from the end, or a slice.

        Raises:
            IndexError: the position is outside the batch.
        """
        rows = at if isinstance(at, slice) else self._locate(index(at))
        return replace(
            self,
            image=self.image[rows],
            index=self.index[rows],
            class_id=None if self.class_id is None else self.class_id[rows],
            serials=self.serials[rows],
            captions=self.captions[rows],
            scores=None if self.scores is None else _select_scores(self.scores, rows),
        )

    def __iter__(self) -> "Iterator[ImageBatch]":
        return (self[at] for at in range(len(self)))

    def _locate(self, at: int) -> slice:
        if not -len(self) <= at < len(self):
            raise IndexError(f"{at} is outside a batch of {len(self)} images")
        return slice(at % len(self), at % len(self) + 1)

    def pil(self) -> "list[Image]":
        """Returns the images as Pillow images, mode L or RGB."""
        from PIL import Image  # noqa: PLC0415 - Pillow is slow to import and often not wanted

        gray = self.image.shape[-1] == 1
        return [Image.fromarray(each[..., 0] if gray else each) for each in self.image]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedPicture(Origin):
    """One encoded picture, of a single image or a sheet."""

    data: bytes = field(repr=False)
    """Bytes of the file, with metadata about its origin. Write them unchanged to keep it."""
    format: Format
    """Encoding of `data`."""
    height: int
    """Rows of the picture."""
    width: int
    """Columns of the picture."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file. Its metadata about the origin stays in it.

        Raises:
            OSError: the file cannot be written.
        """
        Path(path).write_bytes(self.data)

    def pil(self) -> "Image":
        """Returns the decoded picture."""
        from PIL import Image  # noqa: PLC0415 - see above

        return Image.open(io.BytesIO(self.data))


def parse_image_batch(message: image_pb2.ImageBatch, timing: image_pb2.Timing) -> ImageBatch:
    """Returns the pixels of a RAW batch.

    Raises:
        ServerError: the number of bytes does not match the shape, or see `read_origin`.
    """
    shape = (message.shape.height, message.shape.width, message.shape.channels)
    data = message.pictures[0] if len(message.pictures) == 1 else b"".join(message.pictures)
    batch_shape = (len(message.images), *shape)
    if len(data) != np.prod(batch_shape) or message.format != image_pb2.IMAGE_FORMAT_RAW:
        raise ServerError(
            f"the server sent {len(data)} bytes for {batch_shape[0]} raw images of shape {shape}",
            reason="MALFORMED_ANSWER",
        )
    pixels = np.frombuffer(data, dtype=np.uint8).reshape(batch_shape)
    return ImageBatch(**read_origin(message, message.images, timing), image=pixels)


def join_batches(batches: Sequence[ImageBatch], positions: Sequence[int]) -> ImageBatch:
    """Joins the images of several answers of one version into one batch.

    Args:
        batches: one or more.
        positions: position of each image in the result, batch after batch.

    Raises:
        ServerError: the bundle or the variant changed between the answers.
    """
    first = batches[0]
    if len({(batch.bundle_sha256, batch.variant) for batch in batches}) > 1:
        raise ServerError(
            f"{first.model}@{first.version} changed between two calls", reason="BUNDLE_CHANGED"
        )
    order = np.argsort(positions)
    classes = [batch.class_id for batch in batches if batch.class_id is not None]
    serials = [serial for batch in batches for serial in batch.serials]
    captions = [caption for batch in batches for caption in batch.captions]
    seeds = {batch.seed for batch in batches}
    timings = [batch.timing for batch in batches]
    return ImageBatch(
        model=first.model,
        version=first.version,
        seed=first.seed if len(seeds) == 1 else None,
        bundle_sha256=first.bundle_sha256,
        variant=first.variant,
        index=np.concatenate([batch.index for batch in batches])[order],
        class_id=np.concatenate(classes)[order] if classes else None,
        serials=tuple(serials[at] for at in order),
        captions=tuple(captions[at] for at in order) if captions else (),
        scores=_join_scores([batch.scores for batch in batches], order),
        timing=Timing(
            queue_s=sum(timing.queue_s for timing in timings),
            batch_s=sum(timing.batch_s for timing in timings),
            inference_s=sum(timing.inference_s for timing in timings),
            encode_s=sum(timing.encode_s for timing in timings),
        ),
        image=np.concatenate([batch.image for batch in batches])[order],
    )


def _join_scores(parts: Sequence[Scores | None], order: NDArray[np.intp]) -> Scores | None:
    scores = [part for part in parts if part is not None]
    if len(scores) < len(parts):
        return None
    scores_by_name = [score.by_name() for score in scores]
    joined = {
        name: np.concatenate([each[name] for each in scores_by_name])[order]
        for name in scores_by_name[0]
    }
    return Scores(**joined, rejected=np.concatenate([score.rejected for score in scores])[order])


def parse_pictures(message: image_pb2.ImageBatch, timing: image_pb2.Timing) -> list[EncodedPicture]:
    """Returns the pictures of an encoded batch: one for each image, or one sheet.

    Raises:
        ServerError: the number of pictures is wrong, or they are not encoded, or see `read_origin`.
    """
    sheet = message.layout == image_pb2.IMAGE_LAYOUT_SHEET
    groups = [list(message.images)] if sheet else [[image] for image in message.images]
    if len(groups) != len(message.pictures) or message.format not in FORMATS:
        raise ServerError(
            f"the server sent {len(message.pictures)} pictures for {len(groups)}, "
            f"format {image_pb2.ImageFormat.Name(message.format)}",
            reason="MALFORMED_ANSWER",
        )
    return [
        EncodedPicture(
            **read_origin(message, group, timing),
            data=data,
            format=FORMATS[message.format],
            height=message.shape.height,
            width=message.shape.width,
        )
        for group, data in zip(groups, message.pictures, strict=True)
    ]


class OriginFields(TypedDict):
    """Fields of Origin by name."""

    model: str
    version: str
    seed: int | None
    bundle_sha256: str
    variant: str
    index: NDArray[np.uint64]
    class_id: NDArray[np.int64] | None
    serials: tuple[str, ...]
    captions: tuple[str, ...]
    scores: Scores | None
    timing: Timing


def _read_scores(images: Sequence[image_pb2.MintedImage]) -> Scores | None:
    if not images or not images[0].HasField("scores"):
        return None
    found = [image.scores for image in images]
    known = {
        name: np.array([getattr(each, name) for each in found], np.float32)
        for name in SCORE_NAMES
        if found[0].HasField(name)  # type: ignore[arg-type] # the stub wants literals
    }
    return Scores(**known, rejected=np.array([each.rejected for each in found], np.int64))


def read_origin(
    message: image_pb2.ImageBatch | translation_service_pb2.TranslationBatch,
    images: Sequence[image_pb2.MintedImage],
    timing: image_pb2.Timing,
) -> OriginFields:
    """Returns the origin of the images of an answer.

    Raises:
        ServerError: the model or the version has no valid name.
    """
    # Programs make file names of both, as `imagemint generate` does.
    if not MODEL_AND_VERSION.fullmatch(f"{message.model}@{message.version}"):
        raise ServerError(
            f"the server sent images of the model {describe(message.model)}, version "
            f"{describe(message.version)}; these are no valid names",
            reason="MALFORMED_ANSWER",
        )
    conditional = bool(images) and images[0].HasField("class_id")
    class_id = np.array([image.class_id for image in images], np.int64) if conditional else None
    return OriginFields(
        model=message.model,
        version=message.version,
        seed=message.seed if message.HasField("seed") else None,
        bundle_sha256=message.bundle_sha256,
        variant=message.variant,
        index=np.array([image.index for image in images], np.uint64),
        class_id=class_id,
        serials=tuple(image.serial for image in images if image.serial),
        captions=tuple(image.caption for image in images if image.HasField("caption")),
        scores=_read_scores(images),
        timing=Timing.of(timing),
    )
