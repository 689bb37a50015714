"""Models of a server, with versions and manifests."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from imagemint.client.images import SCORE_NAMES
from imagemint.client.requests import spell_version
from imagemint.v1 import manifest_pb2, model_service_pb2


class ModelState(StrEnum):
    """State of a version."""

    UNKNOWN = "unknown"
    """A state that this client does not know, because the server is newer."""
    LOADING = "loading"
    """The server reads, checks and warms up the version."""
    READY = "ready"
    """The server answers requests for the version."""
    FAILED = "failed"
    """The server refused the version; `ModelVersion.reason` says why."""
    UNLOADING = "unloading"
    """The server takes no new calls for the version; active calls finish."""
    UNLOADED = "unloaded"
    """The version is in the repository but not loaded; `ModelVersion.reason` says why."""


_STATES = {
    model_service_pb2.MODEL_STATE_LOADING: ModelState.LOADING,
    model_service_pb2.MODEL_STATE_READY: ModelState.READY,
    model_service_pb2.MODEL_STATE_FAILED: ModelState.FAILED,
    model_service_pb2.MODEL_STATE_UNLOADING: ModelState.UNLOADING,
    model_service_pb2.MODEL_STATE_UNLOADED: ModelState.UNLOADED,
}


@dataclass(frozen=True, slots=True)
class Truncation:
    """Truncation that a model accepts."""

    kind: Literal["threshold", "psi"]
    """threshold: latents are limited to [-t, t]. psi: w is moved towards its mean."""
    minimum: float
    """Smallest accepted value, inclusive."""
    maximum: float
    """Largest accepted value, inclusive."""


@dataclass(frozen=True, slots=True)
class Captions:
    """Captions that a text-to-image model understands."""

    vocabulary: tuple[str, ...]
    """Words that a caption may contain."""
    max_words: int
    """Most words of a caption."""
    examples: tuple[str, ...]
    """Captions of this vocabulary. The server uses one of them if a request has no caption."""


@dataclass(frozen=True, slots=True)
class SourceShape:
    """The source that a model translates."""

    height: int
    """Rows; 0 for a free size."""
    width: int
    """Columns; 0 for a free size."""
    channels: int
    """Channels of one frame: 1 gray or 3 RGB."""
    frames: int
    """Frames of a sequence; 1 for a single picture."""
    mask: bool
    """Whether it takes a mask of what to fill."""
    step: int
    """Free size: height and width are multiples of it; 0 for a fixed size."""
    max_height: int
    """Free size: largest height of one pass; 0 for a fixed size."""
    max_width: int
    """Free size: largest width of one pass; 0 for a fixed size."""
    scale: int
    """Rows and columns of the result per row and column of the source."""
    tiled: bool
    """Free size: whether larger sources are translated in tiles."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measured figure of a model."""

    metric: str
    """Name of the metric, such as `class_accuracy`."""
    value: float
    """Value of the figure; shares are 0 to 1."""
    protocol: str
    """How it was measured."""
    sample_size: int
    """Generated images measured."""
    reference: float | None
    """The same figure of real data against real data; None if undefined."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a version."""

    title: str
    """Title for people, one line."""
    z_dim: int
    """Length of one latent."""
    truncation: Truncation | None
    """Accepted truncation; None if the model does not support truncation."""
    class_labels: tuple[str, ...]
    """Label text by class index; empty for an unconditional model."""
    height: int
    """Rows of an image."""
    width: int
    """Columns of an image."""
    channels: int
    """1 gray or 3 RGB."""
    evaluations: tuple[Evaluation, ...] = field(repr=False)
    """Measured quality."""
    license: str = field(repr=False)
    """SPDX expression, or free text, for weights and samples."""
    captions: Captions | None = field(default=None, repr=False)
    """Captions that it understands; None if the model takes none."""
    scores: tuple[str, ...] = field(default=(), repr=False)
    """Scores of images that it has, by name; empty for a model without a critic."""
    source: SourceShape | None = None
    """The source that it translates; None if it takes none."""
    trained_on: str = field(default="", repr=False)
    """Data set and split that it was trained on, such as `mnist/train`, of a translator behind its
    task, such as `edges of avatars64/train`; empty if unknown."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model."""

    version: str
    """Version, a positive decimal integer."""
    state: ModelState
    """State of the version."""
    reason: str
    """Why the version is FAILED or UNLOADED. If it is READY: why the server refuses the bytes that
    have replaced it since. Empty otherwise."""
    bundle_sha256: str
    """SHA-256 of its model.onnx; empty before the server has read it."""
    execution_provider: str
    """Execution provider of ONNX Runtime; empty unless READY."""
    variant: str
    """Variant that the server runs, such as `fp32` or `int8`; empty unless READY."""
    manifest: Manifest | None
    """Manifest of the version; None unless READY."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request to a model."""

    max_images_per_request: int
    """Largest `count` of generate() and largest `chunk_size` of stream()."""
    default_chunk_size: int
    """Default chunk size of stream()."""
    max_queue_images: int
    """Images that can wait in the queue before the server refuses calls."""
    max_request_bytes: int = 0
    """Largest request in bytes; 0 if the server is older than this field."""
    max_response_bytes: int = 0
    """Largest answer, or chunk of a stream, in bytes of raw pixels; 0 as above."""
    max_source_pixels: int = 0
    """Largest number of pixels of all pictures of a source, and of its translation; 0 as above."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model and all its versions."""

    name: str
    """Name of the model."""
    default_version: str
    """Version for requests that name none; empty while there is none that is READY."""
    versions: tuple[ModelVersion, ...]
    """All versions, oldest first."""
    limits: Limits
    """Limits of a request."""

    def manifest(self, version: str | int | None = "") -> Manifest | None:
        """Returns the manifest of a version; None unless it is READY.

        Args:
            version: the version, as a number or its text; empty or None for the default version.

        Raises:
            InvalidRequest: it is neither.
        """
        wanted = spell_version(version) or self.default_version
        found = (each.manifest for each in self.versions if each.version == wanted)
        return next(found, None)


def parse_model(message: model_service_pb2.Model) -> Model:
    """Returns the model that a response describes."""
    limits = message.limits
    return Model(
        name=message.name,
        default_version=message.default_version,
        versions=tuple(_parse_version(version) for version in message.versions),
        limits=Limits(
            max_images_per_request=limits.max_images_per_request,
            default_chunk_size=limits.default_chunk_size,
            max_queue_images=limits.max_queue_images,
            max_request_bytes=limits.max_request_bytes,
            max_response_bytes=limits.max_response_bytes,
            max_source_pixels=limits.max_source_pixels,
        ),
    )


def _parse_version(message: model_service_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        version=message.version,
        state=_STATES.get(message.state, ModelState.UNKNOWN),
        reason=message.reason,
        bundle_sha256=message.bundle_sha256,
        execution_provider=message.execution_provider,
        variant=message.variant,
        manifest=_parse_manifest(message.manifest) if message.HasField("manifest") else None,
    )


def _parse_manifest(message: manifest_pb2.BundleManifest) -> Manifest:
    latent = message.latent
    return Manifest(
        title=message.title,
        z_dim=latent.z_dim,
        truncation=_parse_truncation(latent.truncation) if latent.HasField("truncation") else None,
        class_labels=tuple(message.class_labels),
        height=message.image.height,
        width=message.image.width,
        channels=message.image.channels,
        evaluations=tuple(_parse_evaluation(evaluation) for evaluation in message.evaluations),
        license=message.license,
        captions=_parse_captions(message.caption) if message.HasField("caption") else None,
        scores=_parse_scores(message.critic),
        source=_parse_source(message.source) if message.HasField("source") else None,
        trained_on=message.training.dataset,
    )


def _parse_scores(message: manifest_pb2.Critic) -> tuple[str, ...]:
    return tuple(each.name for each, _ in message.ListFields() if each.name in SCORE_NAMES)


def _parse_source(message: manifest_pb2.SourceSpec) -> SourceShape:
    names = SourceShape.__dataclass_fields__
    return SourceShape(**{name: getattr(message, name) for name in names})


def _parse_captions(message: manifest_pb2.CaptionSpec) -> Captions:
    return Captions(tuple(message.vocabulary), message.max_words, tuple(message.examples))


def _parse_truncation(message: manifest_pb2.TruncationRange) -> Truncation:
    psi = message.kind == manifest_pb2.TRUNCATION_KIND_PSI
    return Truncation("psi" if psi else "threshold", message.minimum, message.maximum)


def _parse_evaluation(message: manifest_pb2.Evaluation) -> Evaluation:
    return Evaluation(
        metric=message.metric,
        value=message.value,
        protocol=message.protocol,
        sample_size=message.sample_size,
        reference=message.reference if message.HasField("reference") else None,
    )
