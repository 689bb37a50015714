"""The model repository: what is on disk, what of it serves, and why the rest does not."""

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle, read_bundle
from imagemint.engine.errors import (
    BundleRefused,
    ImagemintError,
    ModelNotFound,
    ModelNotReady,
    VersionNotFound,
)
from imagemint.engine.sampling import latents
from imagemint.engine.spec import ModelSpec, TruncationKind
from imagemint.server.batching import Batcher
from imagemint.server.metrics import Metrics
from imagemint.v1 import manifest_pb2

_log = logging.getLogger(__name__)

_LOADING_RETRY_S = 1.0
# What an image takes in an answer besides its pixels, at most: its serial, once more in the picture
# with what else a picture says of itself, and what PNG adds to pixels that do not compress.
_BYTES_AROUND_IMAGE = 1536


class State(enum.Enum):
    """Whether a version answers."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class ServedVersion:
    """A version that answers."""

    version: int
    bundle: Bundle
    backend: Backend
    batcher: Batcher
    max_images: int
    """Images in one answer at most."""

    @property
    def spec(self) -> ModelSpec:
        """The model's input and output."""
        return self.bundle.spec

    @property
    def manifest(self) -> manifest_pb2.BundleManifest:
        """The bundle's self-description."""
        return self.bundle.manifest


@dataclass
class Version:
    """A version directory, whatever became of it."""

    number: int
    directory: Path
    state: State = State.LOADING
    reason: str = ""
    served: ServedVersion | None = None


@dataclass
class Model:
    """A model directory and its versions by number, oldest first."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)

    @property
    def default_version(self) -> ServedVersion | None:
        """The newest version that is ready."""
        ready = [version.served for version in self.versions.values() if version.served]
        return ready[-1] if ready else None


class ModelRepository:
    """Finds, loads and resolves the models under one directory.

    A directory ``<model>/<number>/`` is a version; anything else is left alone, so that an export
    may prepare a version beside the others. A version that is refused disturbs no other.

    Args:
        directory: the repository.
        open_backend: what computes a bundle.
        open_batcher: queue and instances in front of a backend.
        metrics: where to count.
        max_bundle_bytes: larger model files are refused.
        max_images: images in one answer at most.
        max_response_bytes: raw bytes in one answer at most.
    """

    def __init__(
        self,
        directory: Path,
        open_backend: Callable[[Bundle], Backend],
        open_batcher: Callable[[Bundle, Backend], Batcher],
        metrics: Metrics,
        *,
        max_bundle_bytes: int,
        max_images: int,
        max_response_bytes: int,
    ) -> None:
        self._open_backend = open_backend
        self._open_batcher = open_batcher
        self._metrics = metrics
        self._max_bundle_bytes = max_bundle_bytes
        self._max_images = max_images
        self._max_response_bytes = max_response_bytes
        self.models = _scan(directory)

    def load(self) -> None:
        """Loads every version found; blocks until each is READY or FAILED.

        The newest of a model comes first, so that its default version settles early.
        """
        for model in self.models.values():
            for version in reversed(model.versions.values()):
                self._load(model, version)
            failed = sum(v.state is State.FAILED for v in model.versions.values())
            self._metrics.model_failed_versions.labels(model.name).set(failed)

    def _load(self, model: Model, version: Version) -> None:
        began = time.perf_counter()
        try:
            served = self._opened(version)
        except Exception as error:  # noqa: BLE001 - see below
            # Whatever a foreign file does to the runtime, the other models go on serving.
            version.state, version.reason = State.FAILED, _reason_of(error)
            self._metrics.model_load_failures.labels(model.name).inc()
            _log.error("version refused: %s", error, exc_info=not isinstance(error, ImagemintError))
            return
        version.served, version.state = served, State.READY
        bundle, backend = served.bundle, served.backend
        took = time.perf_counter() - began
        labels = (model.name, str(version.number))
        self._metrics.model_load_duration.labels(*labels).set(took)
        precision = manifest_pb2.Precision.Name(bundle.manifest.precision)
        self._metrics.model_info.labels(
            *labels, bundle.sha256, precision.removeprefix("PRECISION_").lower(), backend.provider
        ).set(1)
        _log.info(
            "serving %s@%d (%s, %s) on %s, loaded in %.2f s",
            *(model.name, version.number, precision, bundle.sha256[:12]),
            *(backend.description, took),
        )

    def _opened(self, version: Version) -> ServedVersion:
        bundle = read_bundle(version.directory, max_bytes=self._max_bundle_bytes)
        backend = self._open_backend(bundle)
        try:
            _warm_up(bundle.spec, backend)
            batcher = self._open_batcher(bundle, backend)
        except Exception:
            backend.close()
            raise
        image_bytes = bundle.spec.image_bytes + _BYTES_AROUND_IMAGE
        max_images = max(1, min(self._max_images, self._max_response_bytes // image_bytes))
        return ServedVersion(version.number, bundle, backend, batcher, max_images)

    def resolve(self, name: str, version: str = "") -> ServedVersion:
        """Returns the version that answers for a model.

        Args:
            name: model name.
            version: a positive decimal integer; empty for the default version.

        Raises:
            ModelNotFound: no such model.
            VersionNotFound: the model has no such version.
            ModelNotReady: it is loading, or was refused.
        """
        model = self.model(name)
        if not version:
            return model.default_version or _raise_not_ready(model, list(model.versions.values()))
        # As text: a version has one spelling, and int() chokes on thousands of digits.
        found = {str(number): each for number, each in model.versions.items()}.get(version)
        if found is None:
            raise VersionNotFound(name, version, list(model.versions))
        return found.served or _raise_not_ready(model, [found])

    def model(self, name: str) -> Model:
        """Returns one model.

        Raises:
            ModelNotFound: no such model.
        """
        if name not in self.models:
            raise ModelNotFound(name, list(self.models))
        return self.models[name]

    def close(self, timeout_s: float | None = None) -> None:
        """Finishes what is queued and releases every model.

        Args:
            timeout_s: time for each model to finish; None waits as long as it takes.
        """
        for model in self.models.values():
            for version in model.versions.values():
                if version.served:
                    if not version.served.batcher.close(timeout_s):
                        _log.error("%s@%d hangs; it is left behind", model.name, version.number)
                    version.served.backend.close()


def _reason_of(error: Exception) -> str:
    """What callers are told of a version that failed: no paths, and nothing of internals."""
    if isinstance(error, BundleRefused):
        return error.why
    return (
        error.message if isinstance(error, ImagemintError) else "it cannot be loaded; see the log"
    )


def _raise_not_ready(model: Model, versions: list[Version]) -> ServedVersion:
    reasons = [f"version {v.number}: {v.reason}" for v in versions if v.state is State.FAILED]
    raise ModelNotReady(model.name, "; ".join(reasons) or "still loading", _LOADING_RETRY_S)


def _scan(directory: Path) -> dict[str, Model]:
    models = {}
    for path in sorted(p for p in directory.iterdir() if p.is_dir() and p.name[0] != "."):
        try:
            numbers = sorted(int(p.name) for p in path.iterdir() if _is_version(p))
        except OSError as error:  # lost+found, for one, lies in every volume of its own
            _log.warning("%s is left out: %s", path, error.strerror)
            continue
        if numbers:
            versions = {number: Version(number, path / str(number)) for number in numbers}
            models[path.name] = Model(path.name, versions)
    return models


def _is_version(path: Path) -> bool:
    name = path.name
    return name.isascii() and name.isdecimal() and not name.startswith("0") and path.is_dir()


def _warm_up(spec: ModelSpec, backend: Backend) -> None:
    """Runs two images, so that the first caller does not pay for what the runtime puts off."""
    by_psi = spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI
    backend.run(
        latents(0, 0, 2, spec.z_dim, distribution=spec.distribution),
        np.zeros(2, np.int64) if spec.conditional else None,
        np.ones(2, np.float32) if by_psi else None,
    )
