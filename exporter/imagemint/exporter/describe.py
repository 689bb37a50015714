"""Builds the manifest of a trained generator."""

import json
from dataclasses import dataclass

from imagemint.engine import Distribution
from imagemint.engine.manifest_checks import FORMAT_VERSION
from imagemint.engine.spec import ModelSpec
from imagemint.exporter.adoption import AdoptedModel
from imagemint.exporter.errors import ExportError
from imagemint.training.trained import TrainedGenerator
from imagemint.training.translators import TrainedTranslator
from imagemint.v1 import manifest_pb2 as pb

_DISTRIBUTIONS = {
    Distribution.NORMAL: pb.LATENT_DISTRIBUTION_NORMAL,
    Distribution.UNIFORM: pb.LATENT_DISTRIBUTION_UNIFORM,
}


@dataclass(frozen=True)
class Description:
    """The properties of a bundle that the user chooses; the run records the others."""

    name: str
    """Model name: 1 to 64 lower-case letters, digits, `-`, `_` and `.`."""
    title: str
    """One line for people."""
    license: str
    """SPDX expression, or free text, for weights and samples."""
    thresholds: tuple[float, float] | None
    """Smallest and largest truncation threshold of normal latents; None for no truncation. A model
    with psi accepts 0 to 1, and one with uniform latents accepts no truncation."""


def build_manifest(trained: TrainedGenerator, described: Description) -> pb.BundleManifest:
    """Returns the manifest of a generator, without its parity figures.

    Raises:
        ExportError: name, title or figures break rules of the manifest. The message names all.
    """
    manifest = pb.BundleManifest(
        format_version=FORMAT_VERSION,
        name=described.name,
        title=described.title,
        latent=pb.LatentSpec(
            z_dim=trained.z_dim, distribution=_DISTRIBUTIONS[trained.distribution]
        ),
        class_labels=trained.class_labels,
        image=pb.ImageShape(
            height=trained.image_size, width=trained.image_size, channels=trained.image_channels
        ),
        precision=pb.PRECISION_FP32,
        training=_describe_training(trained),
        evaluations=_list_evaluations(trained),
        license=described.license,
    )
    if trained.captions is not None:
        manifest.caption.CopyFrom(
            pb.CaptionSpec(
                vocabulary=trained.captions.vocabulary,
                max_words=trained.captions.max_words,
                examples=trained.captions.examples,
            )
        )
    if trained.truncation == "psi":
        return _check_manifest(_set_psi(manifest))
    return _check_manifest(_set_threshold(manifest, described))


def build_translation_manifest(
    trained: TrainedTranslator, described: Description
) -> pb.BundleManifest:
    """Returns the manifest of a translator, without its parity figures.

    A translator of free size is served in tiles, which overlap by its radius.

    Raises:
        ExportError: as in `build_manifest`.
    """
    form, is_free = trained.form, trained.free_step > 0
    side = trained.max_side
    source = pb.SourceSpec(
        height=0 if is_free else form.height,
        width=0 if is_free else form.width,
        channels=form.channels,
        frames=form.frames,
        mask=form.mask,
        scale=form.scale,
    )
    if is_free:
        source.step, source.max_height, source.max_width = trained.free_step, side, side
        source.overlap, source.tiled = trained.radius, True
    height, width = (side, side) if is_free else (form.height, form.width)
    manifest = pb.BundleManifest(
        format_version=FORMAT_VERSION,
        name=described.name,
        title=described.title,
        source=source,
        image=pb.ImageShape(
            height=height * form.scale,
            width=width * form.scale,
            channels=trained.target_shape[2],
        ),
        precision=pb.PRECISION_FP32,
        training=_describe_training(trained),
        evaluations=_list_evaluations(trained),
        license=described.license,
    )
    return _check_manifest(manifest)


def _describe_training(trained: TrainedGenerator | TrainedTranslator) -> pb.TrainingProvenance:
    return pb.TrainingProvenance(
        dataset=trained.dataset,
        recipe=trained.recipe,
        options_json=json.dumps(trained.options, sort_keys=True),
        seed=trained.seed,
        images_seen=trained.images_seen,
        code_revision=trained.code_revision,
        checkpoint_sha256=trained.weights_sha256,
    )


def _list_evaluations(trained: TrainedGenerator | TrainedTranslator) -> list[pb.Evaluation]:
    return [
        pb.Evaluation(
            metric=figure.metric,
            value=figure.value,
            protocol=figure.protocol,
            sample_size=figure.sample_size,
            reference=figure.reference,
        )
        for figure in trained.evaluations
    ]


def build_adopted_manifest(adopted: AdoptedModel, described: Description) -> pb.BundleManifest:
    """Returns the manifest of an adopted generator, without its parity figures.

    Raises:
        ExportError: as in `build_manifest`.
    """
    height, width, channels = adopted.shape
    manifest = pb.BundleManifest(
        format_version=FORMAT_VERSION,
        name=described.name,
        title=described.title,
        latent=pb.LatentSpec(
            z_dim=adopted.z_dim, distribution=_DISTRIBUTIONS[adopted.distribution]
        ),
        class_labels=adopted.class_labels,
        image=pb.ImageShape(height=height, width=width, channels=channels),
        precision=pb.PRECISION_FP32,
        training=pb.TrainingProvenance(dataset=adopted.dataset, checkpoint_sha256=adopted.sha256),
        license=described.license,
    )
    if adopted.takes_psi:
        return _check_manifest(_set_psi(manifest))
    return _check_manifest(_set_threshold(manifest, described))


def _set_psi(manifest: pb.BundleManifest) -> pb.BundleManifest:
    manifest.latent.truncation.kind = pb.TRUNCATION_KIND_PSI
    manifest.latent.truncation.minimum, manifest.latent.truncation.maximum = 0.0, 1.0
    return manifest


def _set_threshold(manifest: pb.BundleManifest, described: Description) -> pb.BundleManifest:
    normal = manifest.latent.distribution == pb.LATENT_DISTRIBUTION_NORMAL
    if described.thresholds is not None and normal:
        low, high = described.thresholds
        manifest.latent.truncation.kind = pb.TRUNCATION_KIND_THRESHOLD
        manifest.latent.truncation.minimum, manifest.latent.truncation.maximum = low, high
    return manifest


def _check_manifest(manifest: pb.BundleManifest) -> pb.BundleManifest:
    try:
        ModelSpec.of(manifest)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return manifest
