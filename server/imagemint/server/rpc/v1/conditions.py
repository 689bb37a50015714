"""Checks the classes or the caption of a request and converts them to a condition.

The length of a list is checked before its elements, and NumPy checks the elements, because this
code runs on the event loop.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imagemint.engine.errors import CaptionUnsupported, ClassUnsupported, quote
from imagemint.engine.spec import ModelSpec
from imagemint.engine.spelling import suggest
from imagemint.server.images.conditions import (
    ClassCycle,
    ClassPerImage,
    Condition,
    OneCaption,
    OneClass,
    RandomCaptions,
    RandomClasses,
)
from imagemint.server.rpc.v1.violations import Checks
from imagemint.v1 import image_pb2

# Limits on the length of a cycle. Between them, the limit is the square of the number of classes.
_SHORTEST_CYCLE_LIMIT, _LONGEST_CYCLE_LIMIT = 4_096, 65_536


def read_condition(  # noqa: PLR0911 - one return for each kind of condition
    images: image_pb2.ImageSpec, spec: ModelSpec, checks: Checks
) -> Condition | None:
    """Returns the condition of a request; None for a model without classes and captions.

    Args:
        images: images of the request.
        spec: the model.
        checks: collects the violations; if there are any, do not use the result.
    """
    kind = images.WhichOneof("condition")
    if kind == "caption":
        return _read_caption(images.caption, spec, checks)
    if kind is not None and not spec.conditional:
        takes_caption = spec.captions is not None
        checks.refuse(ClassUnsupported(spec.name, takes_caption=takes_caption))
        return None
    drawn = kind in (None, "class_weights")
    if drawn and spec.num_choices and images.WhichOneof("source") == "latents":
        what = "classes are" if spec.conditional else "a caption is"
        checks.fail("images.condition", f"{what} required with explicit latents")
    match kind:
        case "class_id":
            return _read_class_id(images.class_id, spec, checks)
        case "class_label":
            return OneClass(_read_class_label(images.class_label, spec, checks))
        case "class_per_image":
            return _read_class_per_image(
                images.class_per_image.class_ids, images.count, spec, checks
            )
        case "class_cycle":
            return _read_class_cycle(images.class_cycle.class_ids, spec, checks)
        case "class_weights":
            return _read_class_weights(images.class_weights.weights, spec, checks)
        case _ if spec.captions is not None:
            return RandomCaptions(spec.captions)
        case _:
            return RandomClasses(spec.num_classes) if spec.conditional else None


def _read_caption(caption: str, spec: ModelSpec, checks: Checks) -> OneCaption | None:
    if spec.captions is None:
        checks.refuse(CaptionUnsupported(spec.name))
        return None
    try:
        known = spec.captions.parse(caption)
    except ValueError as error:
        checks.fail("images.caption", str(error))
        return None
    return OneCaption(known, spec.captions.encode([known]))


def _read_class_id(class_id: int, spec: ModelSpec, checks: Checks) -> OneClass:
    if not 0 <= class_id < spec.num_classes:
        _refuse_classes("images.class_id", [class_id], spec, checks)
    return OneClass(class_id)


def _read_class_per_image(
    given: Sequence[int], count: int, spec: ModelSpec, checks: Checks
) -> ClassPerImage | None:
    name = "images.class_per_image.class_ids"
    if len(given) != count:
        checks.fail(name, f"{len(given)} classes for {count} images")
        return None
    return ClassPerImage(_check_classes(name, given, spec, checks))


def _read_class_cycle(given: Sequence[int], spec: ModelSpec, checks: Checks) -> ClassCycle | None:
    if not given:
        return ClassCycle(np.arange(spec.num_classes, dtype=np.int32))
    name = "images.class_cycle.class_ids"
    most = min(max(spec.num_classes**2, _SHORTEST_CYCLE_LIMIT), _LONGEST_CYCLE_LIMIT)
    if len(given) > most:
        checks.fail(name, f"{len(given)} classes; a cycle of this model has at most {most}")
        return None
    return ClassCycle(_check_classes(name, given, spec, checks))


def _check_classes(
    name: str, given: Sequence[int], spec: ModelSpec, checks: Checks
) -> npt.NDArray[np.int32]:
    """Returns the classes int32 [n]; records invalid ones. The caller checks their number."""
    ids = np.array(given, np.int32)
    wrong = ids[(ids < 0) | (ids >= spec.num_classes)]
    if wrong.size:
        _refuse_classes(name, np.unique(wrong).tolist(), spec, checks)
    return ids


def _refuse_classes(name: str, wrong: Sequence[int], spec: ModelSpec, checks: Checks) -> None:
    some = ", ".join(map(str, wrong[:5]))
    checks.fail(name, f"{some} out of range; classes are 0 to {spec.num_classes - 1}")


def _read_class_label(label: str, spec: ModelSpec, checks: Checks) -> int:
    if label in spec.class_labels:
        return spec.class_labels.index(label)
    known = ", ".join(spec.class_labels[:50])
    hint = suggest(label, spec.class_labels)
    checks.fail("images.class_label", f"no class {quote(label, 100)}; there are {known}{hint}")
    return 0


def _read_class_weights(
    given: Sequence[float], spec: ModelSpec, checks: Checks
) -> RandomClasses | None:
    name = "images.class_weights.weights"
    if len(given) != spec.num_classes:
        checks.fail(name, f"{len(given)} weights; the model has {spec.num_classes} classes")
        return None
    weights = list(given)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        checks.fail(name, "a weight is negative or not finite")
    elif not any(weights):
        checks.fail(name, "no weight is above 0")
    return RandomClasses(spec.num_classes, weights)
