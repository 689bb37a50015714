"""Exports a generator to a bundle in a model repository."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from imagemint.engine.bundle import Bundle
from imagemint.exporter.adoption import ForeignModel, adopt
from imagemint.exporter.describe import Description, build_adopted_manifest, build_manifest
from imagemint.exporter.draft import Draft, GraphOptions, publish_draft
from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import build_graph
from imagemint.exporter.parity import Tolerance, make_pytorch_original
from imagemint.exporter.publish import choose_version
from imagemint.training.trained import TrainedGenerator

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.engine.bundle.signatures import SigningKey

_log = logging.getLogger(__name__)

DEFAULT_THRESHOLDS = (0.1, 4.0)
"""Range of truncation for generators of normal latents. A threshold of 4 changes one element in
16,000, so a larger one has no visible effect."""


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
    graph_options: GraphOptions = GraphOptions(),  # noqa: B008 - frozen
    signing_key: "SigningKey | None" = None,
) -> Bundle:
    """Writes a bundle, compares it with PyTorch, and returns it as the server reads it.

    Args:
        trained: the generator; see `graph.build_graph` for how it is called.
        name: model name, and its folder in the repository.
        repository: the model repository; made if missing.
        title: one line for people. None: data set, image size and number of classes.
        license: licence of weights and samples. None: that of the run.
        version: a version that does not exist yet. None: one more than the last.
        thresholds: range of truncation. None: the model takes no truncation.
        tolerance: largest accepted difference from PyTorch.
        graph_options: target device and precisions.
        signing_key: signs the bundle. None: it is not signed.

    Raises:
        ExportError: the bundle cannot be written. The repository is unchanged.
    """
    described = Description(
        name=name,
        title=_format_title(trained) if title is None else title,
        license=trained.license if license is None else license,
        thresholds=thresholds,
    )
    manifest = build_manifest(trained, described)
    version = choose_version(repository, name, version)
    draft = Draft(build_graph(trained), manifest, make_pytorch_original(trained))
    return publish_draft(
        draft, repository, version, tolerance, graph_options, signing_key=signing_key
    )


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
    graph_options: GraphOptions = GraphOptions(),  # noqa: B008 - frozen
    signing_key: "SigningKey | None" = None,
) -> Bundle:
    """Writes a bundle of a generator that another program exported, compared with its file.

    Suspicious properties that are no errors are logged as warnings.

    Args:
        foreign: the file, and its description.
        name: model name, and its folder in the repository.
        repository: the model repository.
        license: licence of weights and samples, which the file does not contain.
        title: one line for people. None: the name of the file.
        version: a version that does not exist yet. None: one more than the last.
        thresholds: range of truncation. None: the model takes no truncation.
        tolerance: largest accepted difference from the file.
        graph_options: target device and precisions.
        signing_key: signs the bundle. None: it is not signed.

    Raises:
        ExportError: the bundle cannot be written. The repository is unchanged.
    """
    if not license.strip():
        raise ExportError("the licence of the weights is missing: an ONNX file does not contain it")
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
    draft = Draft(adopted.model, manifest, adopted.original)
    return publish_draft(
        draft, repository, version, tolerance, graph_options, signing_key=signing_key
    )


def _format_title(trained: TrainedGenerator) -> str:
    classes = f", {len(trained.class_labels)} classes" if trained.class_labels else ""
    return f"{trained.dataset} at {trained.image_size}x{trained.image_size}{classes}"
