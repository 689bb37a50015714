"""The export: from a generator to a bundle in a model repository."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from imagemint.engine import BundleRefused
from imagemint.engine.bundle import MODEL_FILE, Bundle, read_bundle
from imagemint.engine.onnx_backend import OnnxBackend
from imagemint.exporter.adoption import ForeignModel, adopt
from imagemint.exporter.card import card_text
from imagemint.exporter.describe import Description, build_adopted_manifest, build_manifest
from imagemint.exporter.errors import ExportError
from imagemint.exporter.files import write_graph
from imagemint.exporter.graph import build_graph
from imagemint.exporter.parity import Original, Tolerance, from_pytorch, measure_parity
from imagemint.exporter.publish import choose_version, staged
from imagemint.exporter.samples import write_samples
from imagemint.exporter.subpixel import without_transposed
from imagemint.exporter.variants import Compare, add_variants
from imagemint.training.checkpoints import TrainedGenerator
from imagemint.v1 import manifest_pb2 as pb

_log = logging.getLogger(__name__)

DEFAULT_THRESHOLDS = (0.1, 4.0)
"""Truncation that any generator of normal latents takes: a threshold above 4 spares but one
element in 16,000, and so changes nothing that is seen."""


@dataclass(frozen=True)
class Shape:
    """What becomes of a graph.

    Attributes:
        target: device that model.onnx is laid out for: `cpu` writes transposed convolutions as
            plain ones, `cuda` leaves them to its libraries.
        variants: other precisions, `int8` and `fp16`, each in a file of its own.
        compare: judges variants; needed for any.
    """

    target: Literal["cpu", "cuda"] = "cpu"
    variants: Sequence[str] = ()
    compare: Compare | None = None


def export_generator(
    trained: TrainedGenerator,
    *,
    name: str,
    repository: Path,
    title: str | None = None,
    license: str | None = None,  # noqa: A002 - the word of the manifest
    version: int | None = None,
    thresholds: tuple[float, float] | None = DEFAULT_THRESHOLDS,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
    shape: Shape = Shape(),
) -> Bundle:
    """Writes a bundle that was compared with PyTorch, and returns it as the server will read it.

    Args:
        trained: the generator; see `graph.build_graph` for how it is called.
        name: model name, and its folder in the repository.
        repository: the model repository; made if missing.
        title: one line for people; None: said from data and size.
        license: of weights and samples; None: as the run says.
        version: 1 or more, not yet there; None: one more than the last.
        thresholds: range of truncation to accept; None: the model takes none.
        tolerance: how far the bundle may stray from PyTorch.
        shape: for which device, and in which precisions.

    Raises:
        ExportError: anything speaks against it. Nothing is left in the repository then.
    """
    described = Description(
        name=name,
        title=_title(trained) if title is None else title,
        license=trained.license if license is None else license,
        thresholds=thresholds,
    )
    manifest = build_manifest(trained, described)
    version = choose_version(repository, name, version)
    made = _Made(build_graph(trained), manifest, from_pytorch(trained))
    return _published(made, repository, version, tolerance, shape)


def adopt_generator(
    foreign: ForeignModel,
    *,
    name: str,
    repository: Path,
    license: str,  # noqa: A002 - the word of the manifest
    title: str | None = None,
    version: int | None = None,
    thresholds: tuple[float, float] | None = DEFAULT_THRESHOLDS,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
    shape: Shape = Shape(),
) -> Bundle:
    """Writes a bundle of a generator that another program exported, compared with its file.

    What looks wrong and is no error is logged as a warning.

    Args:
        foreign: the file, and what you tell about it.
        name: as for `export_generator`, like all that follow.
        repository: the model repository.
        license: of weights and samples, which no file tells.
        title: one line for people; None: the name of the file.
        version: 1 or more, not yet there; None: one more than the last.
        thresholds: range of truncation to accept; None: the model takes none.
        tolerance: how far the bundle may stray from the file.
        shape: for which device, and in which precisions.

    Raises:
        ExportError: anything speaks against it. Nothing is left in the repository then.
    """
    if not license.strip():
        raise ExportError("the licence of the weights is missing: the file does not hold it")
    adopted = adopt(foreign)
    for warning in adopted.warnings:
        _log.warning("%s", warning)
    described = Description(
        name=name,
        title=f"Adopted from {foreign.path.name}" if title is None else title,
        license=license,
        thresholds=thresholds,
    )
    manifest = build_adopted_manifest(adopted, described)
    version = choose_version(repository, name, version)
    made = _Made(adopted.model, manifest, adopted.original)
    return _published(made, repository, version, tolerance, shape)


@dataclass(frozen=True)
class _Made:
    """A graph that is to be published."""

    model: onnx.ModelProto
    manifest: pb.BundleManifest
    original: Original


def _published(
    made: _Made, repository: Path, version: int, tolerance: Tolerance, shape: Shape
) -> Bundle:
    if shape.variants and shape.compare is None:
        raise ExportError("a variant is judged before it is written, and there is nobody to judge")
    manifest, name = made.manifest, made.manifest.name
    model = without_transposed(made.model) if shape.target == "cpu" else made.model
    with staged(repository, name, version) as directory:
        bundle, backend = _loaded(directory, model, manifest)
        parity = measure_parity(made.original, bundle.spec, backend, tolerance)
        manifest.parity.CopyFrom(parity)
        if shape.compare is not None:
            add_variants(directory, made.model, manifest, shape.variants, shape.compare)
        # Once more with the figures in it: what is published is what was looked at last.
        bundle, backend = _loaded(directory, model, manifest)
        write_samples(directory / "samples.png", backend, bundle.spec, version)
        card = card_text(manifest, version, made.original.name)
        (directory / "card.md").write_text(card)
    final = repository.absolute() / name / str(version)
    others = tuple(replace(each, path=final / each.path.name) for each in bundle.others)
    return replace(bundle, directory=final, model_path=final / MODEL_FILE, others=others)


def _loaded(
    directory: Path, model: onnx.ModelProto, manifest: pb.BundleManifest
) -> tuple[Bundle, OnnxBackend]:
    """The model with its manifest, written and read back by the engine that will serve it."""
    write_graph(directory, MODEL_FILE, model, manifest)
    try:
        bundle = read_bundle(directory)
        # On the CPU everywhere, so that the figures do not depend on who exports.
        return bundle, OnnxBackend(bundle, device="cpu")
    except BundleRefused as error:
        raise ExportError(f"the exported graph is not fit to be served: {error.why}") from error


def _title(trained: TrainedGenerator) -> str:
    classes = f", {len(trained.class_labels)} classes" if trained.class_labels else ""
    return f"{trained.dataset} at {trained.image_size}x{trained.image_size}{classes}"
