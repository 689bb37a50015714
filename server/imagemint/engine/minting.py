"""Draws images from their serial numbers alone, with the bundles of a folder."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import (
    CaptionUnsupported,
    ClassUnsupported,
    InvalidRequest,
    ModelNotFound,
    SourceRequired,
    VersionNotFound,
    Violation,
)
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import Run, draw_run_latents
from imagemint.engine.serial import Serial
from imagemint.engine.spec import ModelSpec

# A batch for the backend, which splits it further. More images would only take memory.
_MOST_ROWS = 64
_REFERENCE = "reference"


class Minted(NamedTuple):
    """One image and what drew it."""

    serial: Serial
    """Its serial number."""
    image: NDArray[np.uint8]
    """Pixels uint8 [height, width, channels]."""
    variant: str
    """Name of the variant of the model."""


def mint(serials: Sequence[Serial], repository: Path, device: str = "cpu") -> Iterator[Minted]:
    """Yields the image of each serial number, in order.

    A bundle is opened once for serials of it that follow each other.

    Args:
        serials: serial numbers of generated images.
        repository: folder with the bundles, <model>/<version>.
        device: `cpu`, `cuda` or `auto`. Another device than the one that drew an image first may
            give pixels that differ by a level.

    Raises:
        ModelNotFound, VersionNotFound: the folder has no such bundle.
        SourceRequired: the image is a translation, whose serial has only a digest of the source.
        InvalidRequest: the model cannot have made an image of this serial number.
        ClassUnsupported, CaptionUnsupported: likewise.
        BundleRefused: a bundle cannot be used, or has no such variant.
    """
    for (model, version, variant), several in groupby(serials, key=_get_maker):
        bundle = read_bundle(_find_bundle(repository, model, version))
        backend = OnnxBackend(bundle, device=device, variant=variant or _REFERENCE)
        try:
            yield from _draw(backend, bundle.spec, list(several))
        finally:
            backend.close()


def _get_maker(serial: Serial) -> tuple[str, int, str | None]:
    return serial.model, serial.version, serial.variant


def _find_bundle(repository: Path, model: str, version: int) -> Path:
    known = sorted(path.name for path in repository.glob("*") if path.is_dir())
    if model not in known:
        raise ModelNotFound(model, known)
    folder = repository / model
    versions = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    if version not in versions:
        raise VersionNotFound(model, version, versions)
    return folder / str(version)


def _draw(backend: OnnxBackend, spec: ModelSpec, serials: list[Serial]) -> Iterator[Minted]:
    for serial in serials:
        _check(serial, spec)
    for start in range(0, len(serials), _MOST_ROWS):
        part = serials[start : start + _MOST_ROWS]
        images = backend.run(_make_batch(part, spec))
        for serial, image in zip(part, images, strict=True):
            yield Minted(serial, image, backend.variant.name)


def _make_batch(serials: Sequence[Serial], spec: ModelSpec) -> Batch:
    truncations = [serial.truncation for serial in serials]
    thresholds = truncations if spec.takes_threshold else [None] * len(serials)
    runs = [
        Run(serial.seed, serial.index, 1, threshold)
        for serial, threshold in zip(serials, thresholds, strict=True)
    ]
    psi = [1.0 if truncation is None else truncation for truncation in truncations]
    captions = [serial.caption or "" for serial in serials]
    return Batch(
        z=draw_run_latents(runs, spec.z_dim, distribution=spec.distribution),
        class_id=np.array([serial.class_id for serial in serials]) if spec.conditional else None,
        tokens=spec.captions.encode(captions) if spec.captions else None,
        truncation=np.array(psi, np.float32) if spec.takes_psi else None,
    )


def _check(serial: Serial, spec: ModelSpec) -> None:
    """Refuses a serial number that the model cannot have given."""
    if spec.source is not None or serial.source is not None:
        raise SourceRequired(spec.name)
    if serial.class_id is not None and not spec.conditional:
        raise ClassUnsupported(spec.name)
    if serial.caption is not None and spec.captions is None:
        raise CaptionUnsupported(spec.name)
    if fault := _find_wrong_condition(serial, spec) or _find_wrong_truncation(serial, spec):
        raise InvalidRequest([Violation(str(serial), fault)])


def _find_wrong_condition(serial: Serial, spec: ModelSpec) -> str:
    """Returns what is wrong with class or caption; empty if nothing is."""
    if spec.conditional and (serial.class_id is None or serial.class_id >= spec.num_classes):
        return f"the model has the classes 0 to {spec.num_classes - 1}"
    if spec.captions is not None:
        try:
            spec.captions.parse(serial.caption or "")
        except ValueError as error:
            return f"caption: {error}"
    return ""


def _find_wrong_truncation(serial: Serial, spec: ModelSpec) -> str:
    """Returns what is wrong with the truncation; empty if nothing is."""
    accepted = spec.truncation
    if serial.truncation is None:
        return ""
    if accepted is None:
        return "the model takes no truncation"
    if not accepted.minimum <= serial.truncation <= accepted.maximum:
        return f"the truncation is {accepted.minimum:g} to {accepted.maximum:g}"
    return ""
