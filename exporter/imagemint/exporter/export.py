"""The export: from a generator to a bundle in a model repository."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from imagemint.engine import BundleRefused
from imagemint.engine.bundle import MODEL_FILE, Bundle, read_bundle
from imagemint.engine.bundle.critic import CRITIC_FILE
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter.adoption import ForeignModel, adopt
from imagemint.exporter.card import card_text
from imagemint.exporter.critic import CriticParts, add_critic
from imagemint.exporter.describe import Description, build_adopted_manifest, build_manifest
from imagemint.exporter.errors import ExportError
from imagemint.exporter.files import write_graph
from imagemint.exporter.graph import build_graph
from imagemint.exporter.parity import Original, Tolerance, measure_parity, pytorch_original
from imagemint.exporter.publish import choose_version, stage_version
from imagemint.exporter.samples import write_samples
from imagemint.exporter.subpixel import replace_transposed_convolutions
from imagemint.exporter.variants import Compare, add_variants
from imagemint.training.trained import TrainedGenerator
from imagemint.v1 import manifest_pb2 as pb

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.engine.bundle.signatures import SigningKey

_log = logging.getLogger(__name__)

DEFAULT_THRESHOLDS = (0.1, 4.0)
"""Range of truncation for generators of normal latents. A threshold of 4 changes one element in
16,000, so a larger one has no visible effect."""


@dataclass(frozen=True)
class GraphOptions:
    """The forms in which a graph is written.

    Attributes:
        target: device of model.onnx: `cpu` writes transposed convolutions as plain ones, `cuda`
            keeps them.
        variants: other precisions, `int8` and `fp16`, each in its own file.
        compare: compares the quality of variants; required for any variant.
        critic: what the critic is made of; None for a bundle without scores.
    """

    target: Literal["cpu", "cuda"] = "cpu"
    variants: Sequence[str] = ()
    compare: Compare | None = None
    critic: CriticParts | None = None


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
    graph_options: GraphOptions = GraphOptions(),
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
        title=_title(trained) if title is None else title,
        license=trained.license if license is None else license,
        thresholds=thresholds,
    )
    manifest = build_manifest(trained, described)
    version = choose_version(repository, name, version)
    draft = _Draft(build_graph(trained), manifest, pytorch_original(trained))
    with stage_version(repository, name, version, signing_key) as directory:
        bundle = _fill(directory, draft, tolerance, graph_options)
    return _move(bundle, repository.absolute() / name / str(version))


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
    graph_options: GraphOptions = GraphOptions(),
    signing_key: "SigningKey | None" = None,
) -> Bundle:
    """Writes a bundle of a generator that another program exported, compared with its file.

    What looks wrong and is no error is logged as a warning.

    Args:
        foreign: the file, and what you tell about it.
        name: as for `export_generator`, like all that follow.
        repository: the model repository.
        license: licence of weights and samples, which the file does not hold.
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
    draft = _Draft(adopted.model, manifest, adopted.original)
    with stage_version(repository, name, version, signing_key) as directory:
        bundle = _fill(directory, draft, tolerance, graph_options)
    return _move(bundle, repository.absolute() / name / str(version))


@dataclass(frozen=True)
class _Draft:
    """A graph with its manifest, before it is checked and published."""

    model: onnx.ModelProto
    manifest: pb.BundleManifest
    original: Original


def _fill(directory: Path, draft: _Draft, tolerance: Tolerance, options: GraphOptions) -> Bundle:
    """Writes the files of a bundle into a staging directory."""
    if options.variants and options.compare is None:
        raise ExportError("a variant needs a judge: name a --classifier")
    manifest = draft.manifest
    model = replace_transposed_convolutions(draft.model) if options.target == "cpu" else draft.model
    bundle, backend = _write_and_load(directory, model, manifest)
    parity = measure_parity(draft.original, bundle.spec, backend, tolerance)
    manifest.parity.CopyFrom(parity)
    if options.critic is not None:
        add_critic(directory, bundle.spec, backend, manifest, options.critic)
    if options.compare is not None:
        add_variants(directory, draft.model, manifest, options.variants, options.compare)
    # Again, with the figures in the manifest: the published file is the one that was checked.
    bundle, backend = _write_and_load(directory, model, manifest)
    write_samples(directory / "samples.png", backend, bundle.spec, bundle.version)
    card = card_text(manifest, bundle.version, draft.original.name)
    (directory / "card.md").write_text(card)
    return bundle


def _move(bundle: Bundle, directory: Path) -> Bundle:
    """Returns a bundle whose files were moved to another directory."""
    others = tuple(replace(each, path=directory / each.path.name) for each in bundle.others)
    critic = bundle.critic and replace(bundle.critic, path=directory / CRITIC_FILE)
    return replace(
        bundle,
        directory=directory,
        model_path=directory / MODEL_FILE,
        others=others,
        critic=critic,
    )


def _write_and_load(
    directory: Path, model: onnx.ModelProto, manifest: pb.BundleManifest
) -> tuple[Bundle, OnnxBackend]:
    """Writes the model with its manifest, and reads it back with the engine that serves it."""
    write_graph(directory, MODEL_FILE, model, manifest)
    try:
        bundle = read_bundle(directory)
        # Always on the CPU, so that the figures do not depend on the machine of the export.
        return bundle, OnnxBackend(bundle, device="cpu")
    except BundleRefused as error:
        raise ExportError(f"the exported graph is not fit to be served: {error.why}") from error


def _title(trained: TrainedGenerator) -> str:
    classes = f", {len(trained.class_labels)} classes" if trained.class_labels else ""
    return f"{trained.dataset} at {trained.image_size}x{trained.image_size}{classes}"
