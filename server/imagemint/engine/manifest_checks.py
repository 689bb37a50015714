"""Checks a manifest against the rules of manifest.proto."""

import json
import math
import re
from collections.abc import Iterator

from imagemint.engine.captions import MAX_VOCABULARY, MAX_WORDS, Captions, normalize, split_words
from imagemint.engine.filtering import ScoreSpec
from imagemint.v1 import manifest_pb2 as pb

FORMAT_VERSION = 1
"""Newest version of the manifest's format that this code reads."""

VARIANT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""Form of the name of a variant."""
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Form of the name of a model."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VARIANT_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.onnx")
# Words that select a variant without its name.
_RESERVED = {"auto", "reference"}
_MAX_Z_DIM = 65_536
_MAX_SIDE = 8_192
_MAX_FRAMES = 16
_MAX_SCALE = 16
_CHANNELS = (1, 3)
_LEVELS = 255


def find_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    """Yields each violation of the rules of manifest.proto as one line."""
    if manifest.format_version < 1:
        yield f"format_version is {manifest.format_version}, not {FORMAT_VERSION}"
    if not MODEL_NAME.fullmatch(manifest.name):
        yield (
            f"name {manifest.name!r} is not 1 to 64 lower-case letters, digits, '-', '_' and '.', "
            "the first a letter or digit"
        )
    if len(manifest.title.splitlines()) > 1:
        yield "title is more than one line"
    yield from _find_latent_faults(manifest)
    if len(set(manifest.class_labels)) < len(manifest.class_labels):
        yield "class_labels are not unique"
    if not all(manifest.class_labels):
        yield "class_labels holds an empty text"
    if manifest.HasField("caption"):
        yield from _find_caption_faults(manifest)
    yield from _find_image_faults(manifest.image)
    if manifest.HasField("source"):
        yield from _find_source_faults(manifest)
    if manifest.precision not in pb.Precision.values() or not manifest.precision:
        yield "precision is missing or unknown"
    yield from _find_parity_faults(manifest.parity)
    yield from _find_training_faults(manifest.training)
    yield from _find_evaluation_faults(manifest)
    yield from _find_variant_faults(manifest)
    if manifest.HasField("critic"):
        yield from _find_critic_faults(manifest)


def _find_latent_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    latent = manifest.latent
    if manifest.HasField("source") and not manifest.HasField("latent"):
        return
    if not 1 <= latent.z_dim <= _MAX_Z_DIM:
        yield f"latent.z_dim is {latent.z_dim}, not 1 to {_MAX_Z_DIM}"
    if latent.distribution not in pb.LatentDistribution.values() or not latent.distribution:
        yield "latent.distribution is missing or unknown"
    if not latent.HasField("truncation"):
        return
    accepted = latent.truncation
    low, high = accepted.minimum, accepted.maximum
    kind, distribution = accepted.kind, latent.distribution
    if kind not in pb.TruncationKind.values() or not kind:
        yield "latent.truncation.kind is missing or unknown"
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        yield f"latent.truncation range {low} to {high} is empty or not finite"
    if kind == pb.TRUNCATION_KIND_THRESHOLD and not low > 0:
        yield f"latent.truncation.minimum is {low}; a threshold is above 0"
    if kind == pb.TRUNCATION_KIND_THRESHOLD and distribution != pb.LATENT_DISTRIBUTION_NORMAL:
        yield "latent.truncation by threshold needs the normal distribution"
    if kind == pb.TRUNCATION_KIND_PSI and not (low >= 0 and high <= 1):
        yield f"latent.truncation range {low} to {high} leaves 0 to 1"


def _find_caption_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    caption = manifest.caption
    if manifest.class_labels:
        yield "class_labels and caption are both given; a model takes a class or a caption"
    if not 1 <= caption.max_words <= MAX_WORDS:
        yield f"caption.max_words is {caption.max_words}, not 1 to {MAX_WORDS}"
    words = caption.vocabulary
    if not 1 <= len(words) <= MAX_VOCABULARY:
        yield f"caption.vocabulary has {len(words)} words, not 1 to {MAX_VOCABULARY}"
    if len(set(words)) < len(words):
        yield "caption.vocabulary is not unique"
    for word in words:
        if split_words(word) != [word]:
            yield f"caption.vocabulary: {word!r} is not lower-case letters, digits and '-'"
    yield from _find_example_faults(caption)


def _find_example_faults(caption: pb.CaptionSpec) -> Iterator[str]:
    if not caption.examples or len(set(caption.examples)) < len(caption.examples):
        yield "caption.examples are missing or not unique"
    known = Captions(tuple(caption.vocabulary), caption.max_words, ())
    for example in caption.examples:
        try:
            known.parse(example)
        except ValueError as error:
            yield f"caption.examples: {example!r}: {error}"
        if normalize(example) != example:
            yield f"caption.examples: {example!r} is not in its normal form, {normalize(example)!r}"


def _find_image_faults(image: pb.ImageShape) -> Iterator[str]:
    for side, pixels in (("height", image.height), ("width", image.width)):
        if not 1 <= pixels <= _MAX_SIDE:
            yield f"image.{side} is {pixels}, not 1 to {_MAX_SIDE}"
    if image.channels not in _CHANNELS:
        yield f"image.channels is {image.channels}, not 1 or 3"


def _find_source_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    source, image = manifest.source, manifest.image
    if source.tiled and manifest.HasField("latent"):
        yield "source.tiled is set, but the model takes a latent, which decides whole pictures"
    if source.channels not in _CHANNELS:
        yield f"source.channels is {source.channels}, not 1 or 3"
    if not 1 <= source.frames <= _MAX_FRAMES:
        yield f"source.frames is {source.frames}, not 1 to {_MAX_FRAMES}"
    if not 1 <= source.scale <= _MAX_SCALE:
        yield f"source.scale is {source.scale}, not 1 to {_MAX_SCALE}"
    is_free = not source.height and not source.width
    yield from _free_size_faults(source) if is_free else _find_fixed_size_faults(source)
    height, width = source.height or source.max_height, source.width or source.max_width
    expected = height * source.scale, width * source.scale
    if (image.height, image.width) != expected:
        yield (
            f"image is {image.height} x {image.width}; source and scale make it"
            f" {expected[0]} x {expected[1]}"
        )


def _find_fixed_size_faults(source: pb.SourceSpec) -> Iterator[str]:
    for side, pixels in (("height", source.height), ("width", source.width)):
        if not 1 <= pixels <= _MAX_SIDE:
            yield f"source.{side} is {pixels}, not 1 to {_MAX_SIDE}, nor 0 for both sides"
    free = (source.step, source.max_height, source.max_width, source.overlap, source.tiled)
    if any(free):
        yield "source: step, max_height, max_width, overlap and tiled need a free size"


def _free_size_faults(source: pb.SourceSpec) -> Iterator[str]:
    if not 1 <= source.step <= _MAX_SIDE:
        yield f"source.step is {source.step}, not 1 to {_MAX_SIDE}"
        return
    for side, pixels in (("max_height", source.max_height), ("max_width", source.max_width)):
        if not source.step <= pixels <= _MAX_SIDE or pixels % source.step:
            yield f"source.{side} is {pixels}, not a multiple of step from step to {_MAX_SIDE}"
    # Each tile starts at a multiple of step, so the overlap is rounded up to one.
    margin = -(-source.overlap // source.step) * source.step
    if source.overlap < 0 or (source.overlap and not source.tiled):
        yield f"source.overlap is {source.overlap}; it is 0 or more, and 0 without tiled"
    elif source.tiled and min(source.max_height, source.max_width) <= 2 * margin:
        yield f"source.overlap {source.overlap} leaves nothing of a tile of max_height x max_width"


def _find_parity_faults(parity: pb.Parity) -> Iterator[str]:
    shares = (parity.differing_share, parity.tolerance_share)
    if not all(0 <= share <= 1 for share in shares):
        yield "a share in parity is outside 0 to 1"
    counts = (parity.samples, parity.max_difference, parity.tolerance_difference)
    if min(counts) < 0:
        yield "a count in parity is negative"
    if any(size < 1 for size in parity.batch_sizes):
        yield "parity.batch_sizes holds a size below 1"


def _find_training_faults(training: pb.TrainingProvenance) -> Iterator[str]:
    if training.images_seen < 0:
        yield "training.images_seen is negative"
    if training.checkpoint_sha256 and not _SHA256.fullmatch(training.checkpoint_sha256):
        yield "training.checkpoint_sha256 is not 64 lower-case hexadecimal digits"
    if training.options_json:
        try:
            json.loads(training.options_json)
        except ValueError:
            yield "training.options_json is not JSON"


def _find_evaluation_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    for number, evaluation in enumerate(manifest.evaluations):
        if not evaluation.metric:
            yield f"evaluations[{number}].metric is empty"
        if not (math.isfinite(evaluation.value) and math.isfinite(evaluation.reference)):
            yield f"evaluations[{number}] is not finite"
        if evaluation.sample_size < 0:
            yield f"evaluations[{number}].sample_size is negative"


def _find_variant_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    if manifest.precision not in pb.Precision.values():
        return  # reported above
    used_names = _RESERVED | {
        pb.Precision.Name(manifest.precision).removeprefix("PRECISION_").lower()
    }
    for number, variant in enumerate(manifest.variants):
        place = f"variants[{number}]"
        if not VARIANT_NAME.fullmatch(variant.name):
            yield f"{place}.name {variant.name!r} is not 1 to 32 lower-case letters, digits and '-'"
        elif variant.name in used_names:
            yield f"{place}.name {variant.name!r} is taken"
        used_names.add(variant.name)
        if not _VARIANT_FILE.fullmatch(variant.file):
            yield f"{place}.file {variant.file!r} is not a plain name that ends in .onnx"
        if not _SHA256.fullmatch(variant.sha256):
            yield f"{place}.sha256 is not 64 lower-case hexadecimal digits"
        if variant.precision not in pb.Precision.values() or not variant.precision:
            yield f"{place}.precision is missing or unknown"
        if variant.target not in pb.TargetDevice.values() or not variant.target:
            yield f"{place}.target is missing or unknown"
        yield from _find_figure_faults(place, variant)


def _find_critic_faults(manifest: pb.BundleManifest) -> Iterator[str]:
    critic = manifest.critic
    if not _SHA256.fullmatch(critic.sha256):
        yield "critic.sha256 is not 64 lower-case hexadecimal digits"
    if not ScoreSpec.of(critic).names:
        yield "critic has no score"
    if manifest.HasField("source"):
        yield "critic and source are both given; images of a translator have no scores"
    if critic.HasField("class_confidence") and not manifest.class_labels:
        yield "critic.class_confidence needs class_labels"
    realness = critic.realness
    if not (math.isfinite(realness.maximum) and math.isfinite(realness.shift)):
        yield "critic.realness holds a number that is not finite"
    if not 0 <= realness.accepted_share <= 1:
        yield "critic.realness.accepted_share is outside 0 to 1"


def _find_figure_faults(place: str, variant: pb.Variant) -> Iterator[str]:
    difference = variant.difference
    shares = (
        *(difference.differing_share, difference.over_one_share),
        difference.tolerance_over_one_share,
    )
    if not all(0 <= share <= 1 for share in shares):
        yield f"{place}.difference holds a share outside 0 to 1"
    levels = (
        *(difference.mean, difference.maximum),
        *(difference.tolerance_mean, difference.tolerance_maximum),
    )
    if difference.images < 0 or not all(0 <= level <= _LEVELS for level in levels):
        yield f"{place}.difference holds a number out of range"
    for measurement in variant.quality:
        finite = all(map(math.isfinite, (measurement.value, measurement.model, measurement.noise)))
        if (
            not measurement.metric
            or not finite
            or min(measurement.sample_size, measurement.seeds) < 0
        ):
            yield f"{place}.quality holds a figure without name, or out of range"
