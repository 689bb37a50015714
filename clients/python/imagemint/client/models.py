"""Models of a server, their versions, and the manifest of each."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from imagemint.v1 import manifest_pb2, model_service_pb2


class ModelState(StrEnum):
    """State of a version."""

    UNKNOWN = "unknown"
    """A state this client does not know: the server is newer."""
    LOADING = "loading"
    """Being read, checked and warmed up."""
    READY = "ready"
    """Serving."""
    FAILED = "failed"
    """Refused; `ModelVersion.reason` says why."""
    UNLOADING = "unloading"
    """Takes no new calls; calls under way finish."""
    UNLOADED = "unloaded"
    """In the repository and not loaded; `ModelVersion.reason` says why."""


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
    """threshold: latents confined to [-t, t]. psi: w drawn towards its mean."""
    minimum: float
    """Smallest accepted value, inclusive."""
    maximum: float
    """Largest accepted value, inclusive."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measured figure of a model."""

    metric: str
    """Name of the metric, such as `class_accuracy`."""
    value: float
    """Its value; shares are 0 to 1."""
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
    """Accepted truncation; None: the model takes none."""
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


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model."""

    version: str
    """Version, a positive decimal integer."""
    state: ModelState
    """Whether it answers."""
    reason: str
    """Why it FAILED or is UNLOADED; of one that is READY, why the bytes that have since taken its
    place are refused. Empty otherwise."""
    bundle_sha256: str
    """SHA-256 of its model.onnx; empty while unread."""
    execution_provider: str
    """Execution provider that runs it; empty unless READY."""
    variant: str
    """Variant that answers, such as `fp32` or `int8`; empty unless READY."""
    manifest: Manifest | None
    """Its self-description; None unless READY."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request to a model."""

    max_images_per_request: int
    """Largest `count` of generate() and largest `chunk_size` of stream()."""
    default_chunk_size: int
    """Chunk size of stream() when none is named."""
    max_queue_images: int
    """Images that may wait in the queue before calls are refused."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model and all its versions."""

    name: str
    """Name."""
    default_version: str
    """Version that answers when none is named; empty when none is READY."""
    versions: tuple[ModelVersion, ...]
    """Every version found, oldest first."""
    limits: Limits
    """Limits of a request."""

    def manifest(self, version: str = "") -> Manifest | None:
        """The manifest of `version` (empty: the default one); None if it is not READY."""
        wanted = version or self.default_version
        found = (each.manifest for each in self.versions if each.version == wanted)
        return next(found, None)


def model(message: model_service_pb2.Model) -> Model:
    """The model that a response describes."""
    limits = message.limits
    return Model(
        name=message.name,
        default_version=message.default_version,
        versions=tuple(_version(each) for each in message.versions),
        limits=Limits(
            max_images_per_request=limits.max_images_per_request,
            default_chunk_size=limits.default_chunk_size,
            max_queue_images=limits.max_queue_images,
        ),
    )


def _version(message: model_service_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        version=message.version,
        state=_STATES.get(message.state, ModelState.UNKNOWN),
        reason=message.reason,
        bundle_sha256=message.bundle_sha256,
        execution_provider=message.execution_provider,
        variant=message.variant,
        manifest=_manifest(message.manifest) if message.HasField("manifest") else None,
    )


def _manifest(message: manifest_pb2.BundleManifest) -> Manifest:
    latent = message.latent
    return Manifest(
        title=message.title,
        z_dim=latent.z_dim,
        truncation=_truncation(latent.truncation) if latent.HasField("truncation") else None,
        class_labels=tuple(message.class_labels),
        height=message.image.height,
        width=message.image.width,
        channels=message.image.channels,
        evaluations=tuple(_evaluation(each) for each in message.evaluations),
        license=message.license,
    )


def _truncation(message: manifest_pb2.TruncationRange) -> Truncation:
    psi = message.kind == manifest_pb2.TRUNCATION_KIND_PSI
    return Truncation("psi" if psi else "threshold", message.minimum, message.maximum)


def _evaluation(message: manifest_pb2.Evaluation) -> Evaluation:
    return Evaluation(
        metric=message.metric,
        value=message.value,
        protocol=message.protocol,
        sample_size=message.sample_size,
        reference=message.reference if message.HasField("reference") else None,
    )
