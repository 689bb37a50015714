"""Conditions, and request messages built from a caller's arguments."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagemint.client.errors import invalid
from imagemint.v1 import generation_service_pb2, image_pb2

UINT64_MAX = 2**64 - 1
FILTERED_END = 2**48
"""With a filter, indices are below this. Those above belong to further candidates."""
INT32_MAX = 2**31 - 1
_INT32_MAX = 2**31 - 1
# The server checks the real limit. This one avoids sending an array of pixels by mistake.
_LATENT_DIMENSIONS = 2


@dataclass(frozen=True, slots=True)
class PerImage:
    """A class for each image: exactly `count` class indices."""

    class_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cycle:
    """Classes in turn by index: the image at index i gets `class_ids[i % len(class_ids)]`.

    Empty means all classes of the model in order: a balanced set.
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
        wanted = {
            "class_confidence": self.min_class_confidence is not None,
            "realness": self.rejection_sampling,
            "training_distance": self.min_training_distance is not None,
        }
        return tuple(name for name, is_set in wanted.items() if is_set)

    def to_message(self) -> image_pb2.ImageFilter:
        """Returns the message of a request.

        Raises:
            InvalidRequest: `max_tries` does not fit the message.
        """
        tries = None if self.max_tries is None else parse_whole_number("max_tries", self.max_tries)
        return image_pb2.ImageFilter(
            min_class_confidence=self.min_class_confidence,
            rejection_sampling=self.rejection_sampling,
            min_training_distance=self.min_training_distance,
            max_tries=tries,
        )


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
    version: str | int = "",
    variant: str = "",
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
        version: number of the version, or its text; empty for the model's default.
        variant: name of the variant that must make the images, or `reference`; empty for any.
        latents: float32 [count, z_dim] instead of a seed.
        image_filter: which images to keep; None for all.

    Raises:
        InvalidRequest: no server could accept an argument, or it does not fit the message.
    """
    spec = image_pb2.ImageSpec(
        model=model,
        version=_version_text(version),
        variant=variant,
        count=parse_whole_number("count", count, UINT64_MAX),
        first_index=parse_whole_number("first_index", first_index, UINT64_MAX),
    )
    if seed is not None:
        spec.seed = parse_whole_number("seed", seed, UINT64_MAX)
    if truncation is not None:
        spec.truncation = truncation
    if latents is not None:
        if seed is not None:
            raise invalid("latents", "a seed and latents exclude each other")
        spec.latents.values.extend(_latents(latents, count).ravel().tolist())
    if image_filter is not None:
        spec.filter.CopyFrom(image_filter.to_message())
    _set_condition(spec, condition)
    return spec


def remaining(spec: image_pb2.ImageSpec, done: int) -> image_pb2.ImageSpec:
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
    if picture_format not in _FORMATS:
        raise invalid("format", f"{picture_format!r} is none of {', '.join(_FORMATS)}")
    output = image_pb2.OutputSpec(format=_FORMATS[picture_format])
    if quality is not None:
        output.quality = parse_whole_number("quality", quality)
    return output


def make_animation_spec(
    animation_format: AnimationFormat, quality: int | None, frame_ms: int, *, bounces: bool
) -> generation_service_pb2.Animation:
    """Returns the message that specifies the encoding of an animated picture.

    Raises:
        InvalidRequest: the format is unknown, or a number does not fit the message.
    """
    if animation_format not in _ANIMATIONS:
        raise invalid("format", f"{animation_format!r} is none of {', '.join(_ANIMATIONS)}")
    animation = generation_service_pb2.Animation(
        format=_ANIMATIONS[animation_format],
        frame_ms=parse_whole_number("frame_ms", frame_ms),
        bounces=bounces,
    )
    if quality is not None:
        animation.quality = parse_whole_number("quality", quality)
    return animation


def parse_priority(priority: Priority) -> generation_service_pb2.Priority.ValueType:
    """Returns the protobuf value of a priority.

    Raises:
        InvalidRequest: the priority is unknown.
    """
    if priority not in _PRIORITIES:
        raise invalid("priority", f"{priority!r} is none of {', '.join(_PRIORITIES)}")
    return _PRIORITIES[priority]


def parse_whole_number(name: str, value: Any, largest: int = _INT32_MAX) -> int:  # noqa: ANN401 - NumPy's too
    """Returns `value` as an int.

    Raises:
        InvalidRequest: `value` is not an integer from 0 to `largest`; the error calls it `name`.
    """
    try:
        number = value.__index__()
    except AttributeError:
        raise invalid(name, f"{value!r} is not a whole number") from None
    if not 0 <= number <= largest:
        raise invalid(name, f"{number} is outside 0 to {largest}")
    return int(number)


def _version_text(version: str | int | None) -> str:
    """Returns a version as messages spell it.

    Raises:
        InvalidRequest: it is neither a text nor a whole number.
    """
    if version is None or isinstance(version, str):
        return version or ""
    return str(parse_whole_number("version", version, UINT64_MAX))


def _set_condition(spec: image_pb2.ImageSpec, condition: Condition) -> None:
    match condition:
        case None:
            pass
        case bool():  # bool is a subclass of int, but True does not mean class 1
            raise invalid("condition", "a bool is not a class")
        case str():
            spec.class_label = condition
        case PerImage(class_ids):
            spec.class_per_image.class_ids.extend(_class_ids(class_ids))
        case Cycle(class_ids):
            spec.class_cycle.SetInParent()
            spec.class_cycle.class_ids.extend(_class_ids(class_ids))
        case Caption(text):
            spec.caption = text
        case Weights(weights):
            spec.class_weights.weights.extend(float(each) for each in weights)
        case _:
            spec.class_id = _class_ids([condition])[0]


def _class_ids(values: Sequence[Any]) -> list[int]:
    return [parse_whole_number("class_id", value) for value in values]


def _latents(values: ArrayLike, count: int) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != _LATENT_DIMENSIONS or len(array) != count:
        raise invalid("latents", f"shape {array.shape}, wanted (count, z_dim) with count {count}")
    return array
