"""Messages in: checked whole, every violation named, and turned into plain dataclasses."""

import math
import secrets
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imagemint.engine.errors import ClassUnsupported, InvalidRequest, Violation
from imagemint.engine.sheets import sheet_grid
from imagemint.engine.spec import ModelSpec, TruncationKind
from imagemint.server.batching import Priority
from imagemint.server.encoding import DEFAULT_QUALITY, PictureFormat
from imagemint.server.orders import Condition, Cycle, Drawn, OneClass, Order, PerImage
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.v1 import generation_service_pb2, image_pb2

_UINT64_END = 2**64
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
# Pixels along a side that the encoders take.
_LARGEST_SIDE = {PictureFormat.JPEG: 65_500, PictureFormat.WEBP: 16_383}


class Output(NamedTuple):
    """How images come back."""

    picture_format: PictureFormat = PictureFormat.RAW
    quality: int = DEFAULT_QUALITY


class GenerateCall(NamedTuple):
    """A checked GenerateRequest."""

    order: Order
    output: Output
    sheet: bool
    columns: int | None

    @property
    def version(self) -> ServedVersion:
        """What mints them."""
        return self.order.version


class StreamCall(NamedTuple):
    """A checked StreamGenerateRequest."""

    order: Order
    output: Output
    chunk_size: int

    @property
    def version(self) -> ServedVersion:
        """What mints them."""
        return self.order.version


def read_generate(
    request: generation_service_pb2.GenerateRequest, repository: ModelRepository
) -> GenerateCall:
    """Returns what a GenerateRequest asks for.

    Raises:
        InvalidRequest: one or more fields are wrong; all are named.
        ModelNotFound, VersionNotFound, ModelNotReady: as `ModelRepository.resolve`.
        ClassUnsupported: a class asked of an unconditional model.
    """
    checks = _Checks()
    output = _output(request.output, checks)
    is_sheet, columns = _layout(request, output, checks)
    version = _resolved(request.images, repository, checks)
    checks.count(request.images, version.max_images)
    if is_sheet:
        _check_sheet(request.images.count, columns, version.spec, output, checks)
    order = _order(request.images, version, _priority(request.priority, checks), checks)
    checks.done()
    return GenerateCall(order, output, is_sheet, columns)


def read_stream(
    request: generation_service_pb2.StreamGenerateRequest, repository: ModelRepository
) -> StreamCall:
    """Returns what a StreamGenerateRequest asks for.

    Raises:
        As `read_generate`.
    """
    checks = _Checks()
    output = _output(request.output, checks)
    version = _resolved(request.images, repository, checks)
    listed = request.images.WhichOneof("source") == "latents"
    checks.count(request.images, version.max_images if listed else None)
    order = _order(request.images, version, _priority(request.priority, checks), checks)
    chunk_size = default_chunk_size(version)
    if request.HasField("chunk_size"):
        chunk_size = request.chunk_size
        if not 1 <= chunk_size <= version.max_images:
            checks.fail("chunk_size", f"{chunk_size} is not 1 to {version.max_images}")
    checks.done()
    return StreamCall(order, output, chunk_size)


def default_chunk_size(version: ServedVersion) -> int:
    """Returns the images in a chunk of a stream whose caller names no size."""
    return min(_DEFAULT_CHUNK, version.max_images)


class _Checks:
    """The violations found so far."""

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._unsupported: ClassUnsupported | None = None

    def fail(self, name: str, description: str) -> None:
        self._found.append(Violation(name, description))

    def refuse_class(self, model: str) -> None:
        self._unsupported = ClassUnsupported(model)

    def done(self) -> None:
        """Raises for what was found; a precondition counts only once the fields are right."""
        if self._found:
            raise InvalidRequest(self._found)
        if self._unsupported is not None:
            raise self._unsupported

    def count(self, images: image_pb2.ImageSpec, most: int | None) -> None:
        """`most` None: any number."""
        if images.count < 1 or (most is not None and images.count > most):
            limit = "1 or more" if most is None else f"1 to {most}"
            hint = "" if most is None or images.count < 1 else "; StreamGenerate takes any number"
            self.fail("images.count", f"{images.count} is not {limit}{hint}")
        if images.first_index + images.count > _UINT64_END:
            self.fail("images.first_index", "first_index + count exceeds 2^64")


def _resolved(
    images: image_pb2.ImageSpec, repository: ModelRepository, checks: _Checks
) -> ServedVersion:
    if not images.model:
        checks.fail("images.model", "required")
        checks.count(images, None)
        checks.done()
    return repository.resolve(images.model, images.version)


def _order(
    images: image_pb2.ImageSpec, version: ServedVersion, priority: Priority, checks: _Checks
) -> Order:
    spec = version.spec
    source = images.WhichOneof("source")
    seed = None
    explicit_latents = None
    if source == "latents":
        explicit_latents = _latents(images, spec, checks)
    else:
        seed = images.seed if source == "seed" else secrets.randbits(64)
    return Order(
        version=version,
        seed=seed,
        first_index=images.first_index,
        count=images.count,
        condition=_condition(images, spec, checks),
        truncation=_truncation(images, spec, checks),
        explicit_latents=explicit_latents,
        priority=priority,
    )


def _priority(value: int, checks: _Checks) -> Priority:
    priority = _PRIORITIES.get(value)
    if priority is None:
        checks.fail("priority", f"{value} is no priority")
        return Priority.NORMAL
    return priority


def _latents(
    images: image_pb2.ImageSpec, spec: ModelSpec, checks: _Checks
) -> npt.NDArray[np.float32] | None:
    values = np.array(images.latents.values, np.float32)
    expected = images.count * spec.z_dim
    if len(values) != expected:
        checks.fail(
            "images.latents.values",
            f"{len(values)} values; count * z_dim is {images.count} * {spec.z_dim} = {expected}",
        )
        return None
    if not np.isfinite(values).all():
        checks.fail("images.latents.values", "a value is not finite")
    if images.HasField("truncation") and not _takes_psi(spec):
        checks.fail("images.truncation", "explicit latents are taken as they are")
    return values.reshape(-1, spec.z_dim)


def _takes_psi(spec: ModelSpec) -> bool:
    return spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI


def _truncation(images: image_pb2.ImageSpec, spec: ModelSpec, checks: _Checks) -> float | None:
    if not images.HasField("truncation"):
        return None
    truncation = images.truncation
    if spec.truncation is None:
        checks.fail("images.truncation", f"model {spec.name!r} takes none")
        return None
    least, most = spec.truncation.minimum, spec.truncation.maximum
    if not (math.isfinite(truncation) and least <= truncation <= most):
        checks.fail("images.truncation", f"{truncation} is not {least} to {most}")
    return float(truncation)


def _condition(  # noqa: PLR0911 - one return for each kind of condition
    images: image_pb2.ImageSpec, spec: ModelSpec, checks: _Checks
) -> Condition | None:
    kind = images.WhichOneof("condition")
    if not spec.conditional:
        if kind is not None:
            checks.refuse_class(spec.name)
        return None
    drawn = kind in (None, "class_weights")
    if drawn and images.WhichOneof("source") == "latents":
        checks.fail("images.condition", "with explicit latents the classes must be given")
    match kind:
        case "class_id":
            _check_classes("images.class_id", [images.class_id], spec, checks)
            return OneClass(images.class_id)
        case "class_label":
            return OneClass(_class_of(images.class_label, spec, checks))
        case "class_per_image":
            ids = list(images.class_per_image.class_ids)
            name = "images.class_per_image.class_ids"
            _check_classes(name, ids, spec, checks)
            if len(ids) != images.count:
                checks.fail(name, f"{len(ids)} classes for {images.count} images")
            return PerImage(ids)
        case "class_cycle":
            ids = list(images.class_cycle.class_ids) or list(range(spec.num_classes))
            _check_classes("images.class_cycle.class_ids", ids, spec, checks)
            return Cycle(ids)
        case "class_weights":
            weights = list(images.class_weights.weights)
            _check_weights(weights, spec, checks)
            return Drawn(spec.num_classes, weights)
        case _:
            return Drawn(spec.num_classes)


def _check_classes(name: str, ids: list[int], spec: ModelSpec, checks: _Checks) -> None:
    most = spec.num_classes - 1
    wrong = sorted({class_id for class_id in ids if not 0 <= class_id <= most})
    if wrong:
        some = ", ".join(map(str, wrong[:5]))
        checks.fail(name, f"{some} out of range; classes are 0 to {most}")


def _class_of(label: str, spec: ModelSpec, checks: _Checks) -> int:
    if label in spec.class_labels:
        return spec.class_labels.index(label)
    known = ", ".join(spec.class_labels[:50])
    checks.fail("images.class_label", f"no class {label[:100]!r}; there are {known}")
    return 0


def _check_weights(weights: list[float], spec: ModelSpec, checks: _Checks) -> None:
    name = "images.class_weights.weights"
    if len(weights) != spec.num_classes:
        checks.fail(name, f"{len(weights)} weights; the model has {spec.num_classes} classes")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        checks.fail(name, "a weight is negative or not finite")
    elif not any(weights):
        checks.fail(name, "no weight is above 0")


def _layout(
    request: generation_service_pb2.GenerateRequest, output: Output, checks: _Checks
) -> tuple[bool, int | None]:
    """Whether a sheet is wanted, and its columns."""
    if request.layout == image_pb2.IMAGE_LAYOUT_UNSPECIFIED and not request.HasField("columns"):
        return False, None
    is_sheet = request.layout == image_pb2.IMAGE_LAYOUT_SHEET
    if request.layout not in _LAYOUTS:
        checks.fail("layout", f"{request.layout} is no layout")
    if is_sheet and output.picture_format is PictureFormat.RAW:
        checks.fail("layout", "a SHEET needs an encoded format: PNG, JPEG or WEBP")
    columns = request.columns if request.HasField("columns") else None
    if columns is not None and not is_sheet:
        checks.fail("columns", "only a SHEET has columns")
    elif columns is not None and not 1 <= columns <= max(request.images.count, 1):
        checks.fail("columns", f"{columns} is not 1 to count ({request.images.count})")
    return is_sheet, columns


def _check_sheet(
    count: int, columns: int | None, spec: ModelSpec, output: Output, checks: _Checks
) -> None:
    most = _LARGEST_SIDE.get(output.picture_format)
    if most is None or count < 1 or (columns is not None and columns < 1):
        return
    down, across = sheet_grid(count, columns)
    height, width = down * spec.height, across * spec.width
    if max(height, width) > most:
        name = output.picture_format.name
        checks.fail("columns", f"a {name} has at most {most} pixels a side, not {height}x{width}")


def _output(output: image_pb2.OutputSpec, checks: _Checks) -> Output:
    if output.format not in _FORMATS:
        checks.fail("output.format", f"{output.format} is no format")
        return Output()
    picture_format = _FORMATS[output.format]
    if not output.HasField("quality"):
        return Output(picture_format)
    if picture_format not in _WITH_QUALITY:
        checks.fail("output.quality", f"{picture_format.name} has no quality")
    elif not 1 <= output.quality <= _MAX_QUALITY:
        checks.fail("output.quality", f"{output.quality} is not 1 to {_MAX_QUALITY}")
    return Output(picture_format, output.quality)
