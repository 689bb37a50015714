"""The export: from a trained generator to a bundle in a model repository."""

from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf import json_format

from imagemint.engine import BundleRefused
from imagemint.engine.bundle import MANIFEST_KEY, MODEL_FILE, Bundle, read_bundle
from imagemint.engine.onnx_backend import OnnxBackend
from imagemint.exporter.card import card_text
from imagemint.exporter.describe import Description, build_manifest
from imagemint.exporter.errors import ExportError
from imagemint.exporter.graph import build_graph
from imagemint.exporter.parity import Tolerance, measure_parity
from imagemint.exporter.publish import choose_version, staged, write_sums
from imagemint.exporter.samples import write_samples
from imagemint.training.checkpoints import TrainedGenerator
from imagemint.v1 import manifest_pb2 as pb

DEFAULT_THRESHOLDS = (0.1, 4.0)
"""Truncation that any generator of normal latents takes: a threshold above 4 spares but one
element in 16,000, and so changes nothing that is seen."""


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
    model = build_graph(trained)
    with staged(repository, name, version) as directory:
        _, backend = _loaded(directory, model, manifest)
        manifest.parity.CopyFrom(measure_parity(trained, backend, tolerance))
        # Once more with the figures in it: what is published is what was looked at last.
        bundle, backend = _loaded(directory, model, manifest)
        write_samples(directory / "samples.png", backend, bundle.spec, version)
        (directory / "card.md").write_text(card_text(manifest, version))
    final = repository.absolute() / name / str(version)
    return replace(bundle, directory=final, model_path=final / MODEL_FILE)


def _loaded(
    directory: Path, model: onnx.ModelProto, manifest: pb.BundleManifest
) -> tuple[Bundle, OnnxBackend]:
    """The model with its manifest, written and read back by the engine that will serve it."""
    text = json_format.MessageToJson(manifest, indent=None)
    onnx.helper.set_model_props(model, {MANIFEST_KEY: text})
    (directory / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    write_sums(directory)
    try:
        bundle = read_bundle(directory)
        # On the CPU everywhere, so that the figures do not depend on who exports.
        return bundle, OnnxBackend(bundle, device="cpu")
    except BundleRefused as error:
        raise ExportError(f"the exported graph is not fit to be served: {error.why}") from error


def _title(trained: TrainedGenerator) -> str:
    classes = f", {len(trained.class_labels)} classes" if trained.class_labels else ""
    return f"{trained.dataset} at {trained.image_size}x{trained.image_size}{classes}"
