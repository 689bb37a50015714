"""Checks an InterpolateRequest, and converts its path to explicit latents."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imagemint.engine.interpolation import interpolate_latents, locate_frames
from imagemint.engine.sampling import Distribution, draw_class, draw_latents
from imagemint.engine.serial import Serial
from imagemint.engine.spec import ModelSpec
from imagemint.pictures import DEFAULT_QUALITY, AnimationFormat
from imagemint.server.repository import ServedVersion
from imagemint.server.rpc.v1.requests import require_generator
from imagemint.server.rpc.v1.violations import Checks
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import image_pb2

_MOST_SERIALS = 64
_DEFAULT_FRAME_MS = 50
_SHORTEST_FRAME_MS, _LONGEST_FRAME_MS = 10, 10_000
_MAX_QUALITY = 100
_REFERENCE = "reference"
_FORMATS = {
    messages.ANIMATION_FORMAT_UNSPECIFIED: AnimationFormat.WEBP,
    messages.ANIMATION_FORMAT_WEBP: AnimationFormat.WEBP,
    messages.ANIMATION_FORMAT_GIF: AnimationFormat.GIF,
    messages.ANIMATION_FORMAT_APNG: AnimationFormat.APNG,
}


class AnimationOptions(NamedTuple):
    """Encoding of an animation; see `encode_animation`."""

    animation_format: AnimationFormat
    quality: int
    frame_ms: int
    bounces: bool


def read_serials(texts: Sequence[str]) -> list[Serial]:
    """Returns the serials of a path.

    Raises:
        InvalidRequest: they are not 2 to 64 compatible serial numbers.
    """
    checks = Checks()
    serials: list[Serial] = []
    if not 2 <= len(texts) <= _MOST_SERIALS:  # noqa: PLR2004 - both ends of a path
        checks.fail("serials", f"{len(texts)} serial numbers; a path has 2 to {_MOST_SERIALS}")
        checks.raise_violations()
    for at, text in enumerate(texts):
        try:
            serials.append(Serial.parse(text))
        except ValueError as error:
            checks.fail(f"serials[{at}]", str(error))
    checks.raise_violations()
    first = serials[0]
    for at, serial in enumerate(serials):
        for name in ("model", "version", "variant", "caption"):
            if getattr(serial, name) != getattr(first, name):
                checks.fail(f"serials[{at}]", f"has another {name} than the first serial")
    checks.raise_violations()
    return serials


def make_image_spec(
    serials: Sequence[Serial], frames: int, version: ServedVersion
) -> image_pb2.ImageSpec:
    """Returns the frames of a path as images with explicit latents.

    Raises:
        InvalidRequest: a serial is not one of this version, or the number of frames is wrong.
        SourceRequired: the model translates a source.
    """
    require_generator(version)
    spec, first, checks = version.spec, serials[0], Checks()
    least = max(2, len(serials))
    if not least <= frames <= version.max_images:
        checks.fail("frames", f"{frames} is not {least} to {version.max_images}")
    for at, serial in enumerate(serials):
        _check_serial(f"serials[{at}]", serial, first, spec, checks)
    checks.raise_violations()
    waypoints = np.concatenate([_draw_latent(serial, spec) for serial in serials])
    path = interpolate_latents(
        waypoints, frames, spherical=spec.distribution is Distribution.NORMAL
    )
    images = image_pb2.ImageSpec(
        model=spec.name,
        version=str(version.version),
        variant=first.variant or _REFERENCE,
        count=frames,
        latents=image_pb2.Latents(values=path.ravel().tolist()),
    )
    if first.caption is not None:
        images.caption = first.caption
    if spec.takes_psi and first.truncation is not None:
        images.truncation = first.truncation
    if spec.conditional:
        classes = [_get_class(serial, spec) for serial in serials]
        nearest = np.round(locate_frames(len(serials), frames)).astype(np.int64)
        images.class_per_image.class_ids.extend(classes[at] for at in nearest)
    return images


def read_animation(request: messages.InterpolateRequest) -> AnimationOptions | None:
    """Returns the encoding of the animation; None for single frames.

    Raises:
        InvalidRequest: an option is invalid.
    """
    if not request.HasField("animation"):
        return None
    options, checks = request.animation, Checks()
    if request.HasField("output"):
        checks.fail("output", "an animation has no output; it has a format of its own")
    chosen = _FORMATS.get(options.format)
    if chosen is None:
        checks.fail("animation.format", f"{options.format} is not a format")
    quality = options.quality if options.HasField("quality") else DEFAULT_QUALITY
    if options.HasField("quality") and chosen not in (AnimationFormat.WEBP, None):
        checks.fail("animation.quality", f"{chosen.name} has no quality")
    elif not 1 <= quality <= _MAX_QUALITY:
        checks.fail("animation.quality", f"{quality} is not 1 to {_MAX_QUALITY}")
    frame_ms = options.frame_ms if options.HasField("frame_ms") else _DEFAULT_FRAME_MS
    if not _SHORTEST_FRAME_MS <= frame_ms <= _LONGEST_FRAME_MS:
        limits = f"{_SHORTEST_FRAME_MS} to {_LONGEST_FRAME_MS}"
        checks.fail("animation.frame_ms", f"{frame_ms} is not {limits}")
    checks.raise_violations()
    assert chosen is not None  # noqa: S101 - for the type checker: it was a violation
    return AnimationOptions(chosen, quality, frame_ms, options.bounces)


def _check_serial(
    name: str, serial: Serial, first: Serial, spec: ModelSpec, checks: Checks
) -> None:
    truncation = serial.truncation
    if serial.class_id is not None and not 0 <= serial.class_id < spec.num_classes:
        checks.fail(name, f"the model has {spec.num_classes} classes; not {serial.class_id}")
    if spec.captions is not None and serial.caption is None:
        checks.fail(name, "has no caption, which the path needs")
    if truncation is None and first.truncation is None:
        return
    if spec.truncation is None:
        checks.fail(name, f"model {spec.name!r} does not support truncation")
    elif spec.takes_psi and truncation != first.truncation:
        checks.fail(name, "has another truncation than the first serial")
    elif truncation is not None:
        least, most = spec.truncation.minimum, spec.truncation.maximum
        if not least <= truncation <= most:
            checks.fail(name, f"truncation {truncation} is not {least} to {most}")


def _draw_latent(
    serial: Serial, spec: ModelSpec
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return draw_latents(
        serial.seed,
        serial.index,
        1,
        spec.z_dim,
        distribution=spec.distribution,
        threshold=serial.truncation if spec.takes_threshold else None,
    )


def _get_class(serial: Serial, spec: ModelSpec) -> int:
    if serial.class_id is not None:
        return serial.class_id
    return draw_class(serial.seed, serial.index, spec.num_classes)
