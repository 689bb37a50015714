"""Publishes a graph with its manifest as a version of a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from imagemint.engine import BundleRefused
from imagemint.engine.backend import Backend
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import MODEL_FILE, Bundle, read_bundle
from imagemint.engine.bundle.critic import CRITIC_FILE
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.spec import ModelSpec
from imagemint.exporter.card import format_card
from imagemint.exporter.critic import CriticParts, add_critic
from imagemint.exporter.errors import ExportError
from imagemint.exporter.files import write_graph
from imagemint.exporter.parity import Original, Tolerance, measure_parity
from imagemint.exporter.publish import stage_version
from imagemint.exporter.samples import write_samples
from imagemint.exporter.subpixel import replace_transposed_convolutions
from imagemint.exporter.variants import Compare, add_variants
from imagemint.v1 import manifest_pb2 as pb

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.engine.bundle.signatures import SigningKey


@dataclass(frozen=True)
class GraphOptions:
    """Options for writing a graph.

    Attributes:
        target: device of model.onnx: `cpu` writes transposed convolutions as plain ones, `cuda`
            keeps them.
        variants: other precisions, `int8` and `fp16`, each in its own file.
        compare: compares the quality of variants; required for any variant.
        critic: the parts of the critic; None for a bundle without scores.
    """

    target: Literal["cpu", "cuda"] = "cpu"
    variants: Sequence[str] = ()
    compare: Compare | None = None
    critic: CriticParts | None = None


@dataclass(frozen=True)
class Draft:
    """A graph with its manifest, before it is checked and published.

    Attributes:
        model: the graph.
        manifest: the manifest without parity figures.
        original: the model from which the graph was made.
        inputs: inputs of the comparison; None: those of `parity.make_inputs`.
        write_samples: writes samples.png to a path.
    """

    model: onnx.ModelProto
    manifest: pb.BundleManifest
    original: Original
    inputs: Sequence[Batch] | None = None
    write_samples: Callable[[Path, Backend, ModelSpec, int], None] = write_samples


def publish_draft(
    draft: Draft,
    repository: Path,
    version: int,
    tolerance: Tolerance,
    options: GraphOptions,
    *,
    signing_key: "SigningKey | None" = None,
) -> Bundle:
    """Writes the bundle, compares it with its original, and publishes it as a version.

    Args:
        draft: the graph.
        repository: the model repository; made if missing.
        version: a version that does not exist yet.
        tolerance: largest accepted difference from the original.
        options: target device and precisions.
        signing_key: signs the bundle. None: it is not signed.

    Raises:
        ExportError: the bundle cannot be written. The repository is unchanged.
    """
    if options.variants and options.compare is None:
        raise ExportError("a variant needs a judge: name a --classifier")
    manifest, name = draft.manifest, draft.manifest.name
    model = replace_transposed_convolutions(draft.model) if options.target == "cpu" else draft.model
    with stage_version(repository, name, version, signing_key) as directory:
        bundle, backend = _write_and_load(directory, model, manifest)
        parity = measure_parity(draft.original, bundle.spec, backend, tolerance, draft.inputs)
        manifest.parity.CopyFrom(parity)
        if options.critic is not None:
            add_critic(directory, bundle.spec, backend, manifest, options.critic)
        if options.compare is not None:
            add_variants(directory, draft.model, manifest, options.variants, options.compare)
        # Read again, with the figures in the manifest, so that the published file was checked.
        bundle, backend = _write_and_load(directory, model, manifest)
        draft.write_samples(directory / "samples.png", backend, bundle.spec, version)
        card = format_card(manifest, version, draft.original.name)
        (directory / "card.md").write_text(card)
    final = repository.absolute() / name / str(version)
    others = tuple(replace(other, path=final / other.path.name) for other in bundle.others)
    critic = bundle.critic and replace(bundle.critic, path=final / CRITIC_FILE)
    return replace(
        bundle, directory=final, model_path=final / MODEL_FILE, others=others, critic=critic
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
        raise ExportError(f"the exported graph cannot be served: {error.why}") from error
