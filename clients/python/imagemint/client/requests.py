"""Conditions, and request messages built from a caller's arguments."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagemint.client.arguments import (
    UINT64_MAX,
    describe,
    is_whole_number,
    parse_choice,
    parse_flag,
    parse_items,
    parse_number,
    parse_text,
    parse_whole_number,
)
from imagemint.client.errors import make_invalid_request
from imagemint.v1 import generation_service_pb2, image_pb2

FILTERED_END = 2**48
"""With a filter, indices are below this. Those above belong to further candidates."""
# The server checks the real limit. This one avoids sending an array of pixels by mistake.
_LATENT_DIMENSIONS = 2
_REAL_KINDS = "fiu"


@dataclass(frozen=True, slots=True)
class PerImage:
    """A class for each image: exactly `count` class indices."""

    class_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cycle:
    """Classes in turn by index: the image at index i gets `class_ids[i % len(class_ids)]`.

    Empty means all classes of the model in order: a balanced set. A class that is repeated gets
    more images.
    """

    class_ids: Sequence[int] = field(default=())


@dataclass(frozen=True, slots=True)
class Weights:
    """Classes drawn at random with these odds: one finite weight, 0 or more, for each class."""

    weights: Sequence[float]


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption for all images, for a text-to-image model, such as `a person with red hair`.

    `Manifest.captions` has the known words and examples. Case and punctuation do not matter.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps only images with good scores, and returns the scores.

    The image at index i is then the first candidate that passes. Candidate t has the latent of
    index i + t * 2^48 and the class or caption of index i. Its serial number makes it again without
    the filter. A filter without conditions only returns scores. The model must have a critic.
    """

    min_class_confidence: float | None = None
    """Smallest probability that the classifier of the model gives the class, 0 to 1."""
    rejection_sampling: bool = False
    """Whether to accept candidates by discriminator rejection sampling (Azadi et al., 2019)."""
    min_training_distance: float | None = None
    """Smallest distance to a training image, in units of the median distance of test images."""
    max_tries: int | None = None
    """Most candidates of one index, 1 to 1,000. None for the server's default of 64. If none
    passes, the call fails with FILTER_EXHAUSTED."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the scores that the conditions require."""
        conditions = {
            "class_confidence": self.min_class_confidence is not None,
            "realness": self.rejection_sampling,
            "training_distance": self.min_training_distance is not None,
        }
        return tuple(name for name, is_set in conditions.items() if is_set)

    def to_message(self) -> image_pb2.ImageFilter:
        """Returns the message of a request.

        Raises:
            InvalidRequest: a value has the wrong type, or does not fit the message.
        """
        confidence, distance = self.min_class_confidence, self.min_training_distance
        message = image_pb2.ImageFilter(
            rejection_sampling=parse_flag("rejection_sampling", self.rejection_sampling)
        )
        if confidence is not None:
            message.min_class_confidence = parse_number("min_class_confidence", confidence)
        if distance is not None:
            message.min_training_distance = parse_number("min_training_distance", distance)
        if self.max_tries is not None:
            message.max_tries = parse_whole_number("max_tries", self.max_tries)
        return message


Condition: TypeAlias = int | str | PerImage | Cycle | Weights | Caption | None
"""Nothing (the server draws), one class by index, one by label, or one of the above."""

Format: TypeAlias = Literal["png", "jpeg", "webp"]
"""Encoding of a picture."""

AnimationFormat: TypeAlias = Literal["webp", "gif", "apng"]
"""Encoding of an animated picture."""

Priority: TypeAlias = Literal["normal", "high"]
"""Order in which waiting requests are served: high goes before normal."""

_PRIORITIES: dict[str, generation_service_pb2.Priority.ValueType] = {
    "normal": generation_service_pb2.PRIORITY_NORMAL,
    "high": generation_service_pb2.PRIORITY_HIGH,
}
_FORMATS: dict[str, image_pb2.ImageFormat.ValueType] = {
    "png": image_pb2.IMAGE_FORMAT_PNG,
    "jpeg": image_pb2.IMAGE_FORMAT_JPEG,
    "webp": image_pb2.IMAGE_FORMAT_WEBP,
}
_ANIMATIONS: dict[str, generation_service_pb2.AnimationFormat.ValueType] = {
    "webp": generation_service_pb2.ANIMATION_FORMAT_WEBP,
    "gif": generation_service_pb2.ANIMATION_FORMAT_GIF,
    "apng": generation_service_pb2.ANIMATION_FORMAT_APNG,
}


def make_image_spec(
    model: str,
    count: int,
    *,
    seed: int | None = None,
    first_index: int = 0,
    condition: Condition = None,
    truncation: float | None = None,
    version: str | int | None = "",
    variant: str | None = "",
    latents: ArrayLike | None = None,
    image_filter: Filter | None = None,
) -> image_pb2.ImageSpec:
    """Returns the message that specifies the images of a request.

    Args:
        model: model name.
        count: number of images, 1 or more.
        seed: 0 to 2^64 - 1; None to let the server choose one.
        first_index: index of the first image, 0 to 2^64 - 1.
        condition: the class, the classes or the caption.
        truncation: None for no truncation; 0 is a value.
        version: number of the version, or its text; empty or None for the model's default.
        variant: name of the variant that must make the images, or `reference`; empty or None for
            any.
        latents: float32 [count, z_dim] instead of a seed.
        image_filter: which images to keep; None for all.

    Raises:
        InvalidRequest: an argument has the wrong type, no server could accept it, or it does not
            fit the message.
    """
    spec = image_pb2.ImageSpec(
        model=parse_text("model", model),
        version=spell_version(version),
        variant="" if variant is None else parse_text("variant", variant),
        count=parse_whole_number("count", count, UINT64_MAX),
        first_index=parse_whole_number("first_index", first_index, UINT64_MAX),
    )
    if seed is not None:
        spec.seed = parse_whole_number("seed", seed, UINT64_MAX)
    if truncation is not None:
        spec.truncation = parse_number("truncation", truncation)
    if latents is not None:
        if seed is not None:
            raise make_invalid_request("latents", "a seed and latents exclude each other")
        spec.latents.values.extend(_parse_latents(latents, count).ravel().tolist())
    if image_filter is not None:
        if not isinstance(image_filter, Filter):
            raise make_invalid_request("image_filter", f"{describe(image_filter)} is not a Filter")
        spec.filter.CopyFrom(image_filter.to_message())
    _set_condition(spec, condition)
    return spec


def make_remaining(spec: image_pb2.ImageSpec, done: int) -> image_pb2.ImageSpec:
    """Returns `spec` without its first `done` images, to request the rest after a failure.

    Only `class_per_image` and `latents`, which list a value for each image, are cut: a cycle
    depends only on the index, and weights depend on seed and index.
    """
    rest = image_pb2.ImageSpec()
    rest.CopyFrom(spec)
    rest.first_index += done
    rest.count -= done
    if spec.WhichOneof("source") == "latents":
        z_dim = len(spec.latents.values) // spec.count
        del rest.latents.values[: done * z_dim]
    if spec.WhichOneof("condition") == "class_per_image":
        del rest.class_per_image.class_ids[:done]
    return rest


def make_output_spec(picture_format: Format, quality: int | None) -> image_pb2.OutputSpec:
    """Returns the message that specifies the encoding of pictures.

    Raises:
        InvalidRequest: the format is unknown, or the quality does not fit the message.
    """
    output = image_pb2.OutputSpec(format=parse_choice("format", picture_format, _FORMATS))
    if quality is not None:
        output.quality = parse_whole_number("quality", quality)
    return output


def make_animation_spec(
    animation_format: AnimationFormat, quality: int | None, frame_ms: int, *, bounces: bool
) -> generation_service_pb2.Animation:
    """Returns the message that specifies the encoding of an animated picture.

    Raises:
        InvalidRequest: the format is unknown, or a value does not fit the message.
    """
    animation = generation_service_pb2.Animation(
        format=parse_choice("format", animation_format, _ANIMATIONS),
        frame_ms=parse_whole_number("frame_ms", frame_ms),
        bounces=parse_flag("bounces", bounces),
    )
    if quality is not None:
        animation.quality = parse_whole_number("quality", quality)
    return animation


def parse_priority(priority: Priority) -> generation_service_pb2.Priority.ValueType:
    """Returns the protobuf value of a priority.

    Raises:
        InvalidRequest: the priority is unknown.
    """
    return parse_choice("priority", priority, _PRIORITIES)


def spell_version(version: str | int | None) -> str:
    """Returns a version as messages spell it; empty for None.

    Raises:
        InvalidRequest: it is neither a text nor a whole number.
    """
    if version is None:
        return ""
    if isinstance(version, str):
        return parse_text("version", version)
    return str(parse_whole_number("version", version, UINT64_MAX))


def _set_condition(spec: image_pb2.ImageSpec, condition: Condition) -> None:
    match condition:
        case None:
            pass
        case str():
            spec.class_label = parse_text("condition", condition)
        case PerImage(class_ids):
            spec.class_per_image.class_ids.extend(_parse_class_ids(class_ids))
        case Cycle(class_ids):
            spec.class_cycle.SetInParent()
            spec.class_cycle.class_ids.extend(_parse_class_ids(class_ids))
        case Caption(text):
            spec.caption = parse_text("condition", text)
        case Weights(weights):
            items = parse_items("condition", weights, "weights")
            spec.class_weights.weights.extend(parse_number("condition", item) for item in items)
        case _ if is_whole_number(condition):
            spec.class_id = parse_whole_number("condition", condition)
        case _:
            kinds = "a class index, a class label, PerImage, Cycle, Weights nor Caption"
            raise make_invalid_request("condition", f"{describe(condition)} is neither {kinds}")


def _parse_class_ids(values: Sequence[Any]) -> list[int]:
    items = parse_items("condition", values, "class indices")
    return [parse_whole_number("condition", item) for item in items]


def _parse_latents(values: ArrayLike, count: int) -> NDArray[np.float32]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of several lengths, or a tensor on a GPU
        raise make_invalid_request("latents", f"no array: {error}") from None
    if array.dtype.kind not in _REAL_KINDS:
        raise make_invalid_request("latents", f"an array of {array.dtype}, wanted float32")
    if array.ndim != _LATENT_DIMENSIONS or len(array) != count:
        raise make_invalid_request(
            "latents", f"shape {array.shape}, wanted (count, z_dim) with count {count}"
        )
    with np.errstate(over="ignore"):  # the server refuses values that are not finite
        return array.astype(np.float32)
