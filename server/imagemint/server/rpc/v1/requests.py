"""Checks request messages as a whole and converts them to plain dataclasses."""

import math
import secrets
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imagemint.engine.bundle.variants import AUTO
from imagemint.engine.errors import ScoreUnsupported, SourceRequired, VariantMismatch, quote
from imagemint.engine.filtering import INDEX_END, ImageFilter
from imagemint.engine.manifest_checks import VARIANT_NAME
from imagemint.engine.sampling import Run
from imagemint.engine.spec import ModelSpec
from imagemint.pictures import DEFAULT_QUALITY, LARGEST_SIDE, PictureFormat
from imagemint.server.batching import Priority
from imagemint.server.images.contact_sheet import compute_grid
from imagemint.server.images.request import ImageRequest
from imagemint.server.repository import ServedVersion
from imagemint.server.rpc.v1.conditions import read_condition
from imagemint.server.rpc.v1.violations import Checks
from imagemint.v1 import generation_service_pb2, image_pb2

_FORMATS = {
    image_pb2.IMAGE_FORMAT_UNSPECIFIED: PictureFormat.RAW,
    image_pb2.IMAGE_FORMAT_RAW: PictureFormat.RAW,
    image_pb2.IMAGE_FORMAT_PNG: PictureFormat.PNG,
    image_pb2.IMAGE_FORMAT_JPEG: PictureFormat.JPEG,
    image_pb2.IMAGE_FORMAT_WEBP: PictureFormat.WEBP,
}
_PRIORITIES: dict[int, Priority] = {
    generation_service_pb2.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    generation_service_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    generation_service_pb2.PRIORITY_HIGH: Priority.HIGH,
}
_LAYOUTS = frozenset(image_pb2.ImageLayout.values())
_WITH_QUALITY = (PictureFormat.JPEG, PictureFormat.WEBP)
_MAX_QUALITY = 100
_DEFAULT_CHUNK = 256


class Output(NamedTuple):
    """The format of the images in the answer."""

    picture_format: PictureFormat = PictureFormat.RAW
    quality: int = DEFAULT_QUALITY


class GenerateCall(NamedTuple):
    """A checked GenerateRequest."""

    image_request: ImageRequest
    output: Output
    sheet: bool
    columns: int | None


class StreamCall(NamedTuple):
    """A checked StreamGenerateRequest."""

    image_request: ImageRequest
    output: Output
    chunk_size: int


def require_model(
    request: generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest,
) -> None:
    """Checks that a request names a model, without which most fields cannot be checked.

    Raises:
        InvalidRequest: the request names no model.
    """
    if not request.images.model:
        checks = Checks()
        output = read_output(request.output, checks)
        if isinstance(request, generation_service_pb2.GenerateRequest):
            _read_layout(request, output, checks)
        checks.fail("images.model", "required")
        checks.check_count(request.images, None)
        checks.raise_violations()


def require_generator(version: ServedVersion) -> None:
    """Checks that a model generates images without a source.

    Raises:
        SourceRequired: the model translates a source.
    """
    if version.spec.source is not None:
        raise SourceRequired(version.spec.name)


def read_generate(
    request: generation_service_pb2.GenerateRequest, version: ServedVersion
) -> GenerateCall:
    """Converts a GenerateRequest for a version.

    Raises:
        InvalidRequest: one or more fields are wrong; the error lists all of them.
        ClassUnsupported, CaptionUnsupported: the request names what the model does not take.
        SourceRequired: the model translates a source.
        VariantMismatch: the server runs another variant than the request names.
    """
    require_generator(version)
    checks = Checks()
    output = read_output(request.output, checks)
    is_sheet, columns = _read_layout(request, output, checks)
    checks.check_count(request.images, version.max_images)
    if is_sheet:
        _check_sheet(request.images.count, columns, version.spec, output, checks)
    image_request = read_images(request.images, version, request.priority, checks)
    checks.raise_violations()
    return GenerateCall(image_request, output, is_sheet, columns)


def read_stream(
    request: generation_service_pb2.StreamGenerateRequest, version: ServedVersion
) -> StreamCall:
    """Converts a StreamGenerateRequest for a version.

    Raises:
        As in `read_generate`.
    """
    require_generator(version)
    checks = Checks()
    output = read_output(request.output, checks)
    listed = request.images.WhichOneof("source") == "latents"
    checks.check_count(request.images, version.max_images if listed else None)
    image_request = read_images(request.images, version, request.priority, checks)
    chunk_size = choose_default_chunk_size(version)
    if request.HasField("chunk_size"):
        chunk_size = request.chunk_size
        if not 1 <= chunk_size <= version.max_images:
            checks.fail("chunk_size", f"{chunk_size} is not 1 to {version.max_images}")
    checks.raise_violations()
    return StreamCall(image_request, output, chunk_size)


def choose_default_chunk_size(version: ServedVersion) -> int:
    """Returns the number of images per chunk for a stream that names no chunk size."""
    return min(_DEFAULT_CHUNK, version.max_images)


def read_images(
    images: image_pb2.ImageSpec, version: ServedVersion, priority: int, checks: Checks
) -> ImageRequest:
    """Returns the images of a request.

    Args:
        images: images of the request; the caller checks their number.
        version: the version that computes them.
        priority: priority of the request.
        checks: collects the violations; if there are any, do not use the result.
    """
    spec = version.spec
    if images.variant:
        _check_variant(images.variant, version, checks)
    truncation = _read_truncation(images, spec, checks) if images.HasField("truncation") else None
    source = images.WhichOneof("source")
    latents: tuple[Run] | npt.NDArray[np.float32]
    if source == "latents":
        latents = _read_latents(images, spec, checks)
    else:
        seed = images.seed if source == "seed" else secrets.randbits(64)
        threshold = None if spec.takes_psi else truncation
        latents = (Run(seed, images.first_index, images.count, threshold),)
    return ImageRequest(
        version,
        images.count,
        latents,
        read_condition(images, spec, checks),
        truncation,
        _read_priority(priority, checks) if priority else Priority.NORMAL,
        _read_filter(images, version, checks) if images.HasField("filter") else None,
    )


def _read_filter(
    images: image_pb2.ImageSpec, version: ServedVersion, checks: Checks
) -> ImageFilter:
    message = images.filter
    values = {each.name: value for each, value in message.ListFields()}
    image_filter = ImageFilter(**values)
    for name, fault in image_filter.find_faults().items():
        checks.fail(f"images.filter.{name}", fault)
    if images.WhichOneof("source") == "latents":
        checks.fail("images.filter", "explicit latents have no other candidates")
    if images.first_index + images.count > INDEX_END:
        checks.fail("images.first_index", "with a filter, first_index + count is at most 2^48")
    known = () if version.critic is None else version.critic.spec.names
    needed = sorted(set(image_filter.needs.values()) - {*known})
    if needed or not known:
        error = ScoreUnsupported(version.spec.name, version.version, needed or ["scores"], known)
        checks.refuse(error)
    return image_filter


def _check_variant(requested: str, version: ServedVersion, checks: Checks) -> None:
    if not VARIANT_NAME.fullmatch(requested) or requested == AUTO:
        checks.fail(
            "images.variant", f"{quote(requested)} is neither 'reference' nor a variant's name"
        )
        return
    running = version.backend.variant
    if not running.is_named(requested):
        checks.refuse(VariantMismatch(version.spec.name, version.version, running.name, requested))


def _read_priority(value: int, checks: Checks) -> Priority:
    priority = _PRIORITIES.get(value)
    if priority is None:
        checks.fail("priority", f"{value} is not a priority")
        return Priority.NORMAL
    return priority


def _read_latents(
    images: image_pb2.ImageSpec, spec: ModelSpec, checks: Checks
) -> npt.NDArray[np.float32]:
    given = images.latents.values
    if not spec.z_dim:
        checks.fail("images.latents", f"model {spec.name!r} takes no latent")
        return np.empty((images.count, 0), np.float32)
    expected = images.count * spec.z_dim
    if len(given) != expected:
        checks.fail(
            "images.latents.values",
            f"{len(given)} values; count * z_dim is {images.count} * {spec.z_dim} = {expected}",
        )
        return np.empty((0, spec.z_dim), np.float32)
    values = np.array(given, np.float32)
    if not np.isfinite(values).all():
        checks.fail("images.latents.values", "a value is not finite")
    if images.HasField("truncation") and not spec.takes_psi:
        checks.fail("images.truncation", "truncation does not apply to explicit latents")
    return values.reshape(-1, spec.z_dim)


def _read_truncation(images: image_pb2.ImageSpec, spec: ModelSpec, checks: Checks) -> float | None:
    truncation = images.truncation
    if spec.truncation is None:
        checks.fail("images.truncation", f"model {spec.name!r} does not support truncation")
        return None
    least, most = spec.truncation.minimum, spec.truncation.maximum
    if not (math.isfinite(truncation) and least <= truncation <= most):
        checks.fail("images.truncation", f"{truncation} is not {least} to {most}")
    return float(truncation)


def _read_layout(
    request: generation_service_pb2.GenerateRequest, output: Output, checks: Checks
) -> tuple[bool, int | None]:
    """Returns whether the request asks for a contact sheet, and its columns."""
    if request.layout == image_pb2.IMAGE_LAYOUT_UNSPECIFIED and not request.HasField("columns"):
        return False, None
    is_sheet = request.layout == image_pb2.IMAGE_LAYOUT_SHEET
    if request.layout not in _LAYOUTS:
        checks.fail("layout", f"{request.layout} is not a layout")
    if is_sheet and output.picture_format is PictureFormat.RAW:
        checks.fail("layout", "a SHEET needs an encoded format: PNG, JPEG or WEBP")
    columns = request.columns if request.HasField("columns") else None
    if columns is not None and not is_sheet:
        checks.fail("columns", "only a SHEET has columns")
    elif columns is not None and not 1 <= columns <= max(request.images.count, 1):
        checks.fail("columns", f"{columns} is not 1 to count ({request.images.count})")
    return is_sheet, columns


def _check_sheet(
    count: int, columns: int | None, spec: ModelSpec, output: Output, checks: Checks
) -> None:
    most = LARGEST_SIDE.get(output.picture_format)
    if most is None or count < 1 or (columns is not None and columns < 1):
        return
    down, across = compute_grid(count, columns)
    height, width = down * spec.height, across * spec.width
    if max(height, width) > most:
        name = output.picture_format.name
        checks.fail("columns", f"a {name} has at most {most} pixels a side, not {height}x{width}")


def read_output(output: image_pb2.OutputSpec, checks: Checks) -> Output:
    """Returns the format of the images."""
    if output.format not in _FORMATS:
        checks.fail("output.format", f"{output.format} is not a format")
        return Output()
    picture_format = _FORMATS[output.format]
    if not output.HasField("quality"):
        return Output(picture_format)
    if picture_format not in _WITH_QUALITY:
        checks.fail("output.quality", f"{picture_format.name} has no quality")
    elif not 1 <= output.quality <= _MAX_QUALITY:
        checks.fail("output.quality", f"{output.quality} is not 1 to {_MAX_QUALITY}")
    return Output(picture_format, output.quality)
