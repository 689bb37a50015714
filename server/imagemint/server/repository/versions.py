"""The data types of the repository: models, their versions, and the calls that use a version.

All types except `Holds` are immutable, so every thread sees a consistent state of a model.
"""

import enum
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle, Document
from imagemint.engine.errors import ModelNotReady
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching import Batcher
from imagemint.server.repository.scan import Signature
from imagemint.v1 import manifest_pb2

_GONE_RETRY_S = 0.1


class State(enum.Enum):
    """The state of a version."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    """Accepts no new calls; running calls finish."""
    UNLOADED = "unloaded"
    """On disk, but not wanted."""


class Holds:
    """Counts the running calls of a version, so that it can be unloaded after the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held = 0
        self._retired = False
        self._expired = False

    def take(self) -> bool:
        """Adds a call; returns False if the version is retired and must be resolved again."""
        with self._lock:
            if not self._retired:
                self._held += 1
            return not self._retired

    def give(self) -> None:
        """Removes a call."""
        with self._lock:
            self._held -= 1
            if self._retired:  # before that, no thread waits
                self._changed.notify_all()

    def retire(self) -> None:
        """Accepts no further calls."""
        with self._changed:
            self._retired = True

    def expire(self) -> None:
        """Asks the running calls to end, and stops waiting for them."""
        with self._changed:
            self._expired = True
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Waits until no call is running or `expire` is called; returns whether none is running."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._expired, timeout_s)
            return not self._held

    @property
    def expired(self) -> bool:
        """Whether the running calls should end."""
        return self._expired


@dataclass(frozen=True)
class ServedVersion:
    """A version that serves."""

    version: int
    bundle: Bundle
    backend: Backend
    batcher: Batcher
    max_images: int
    """Maximum number of images in one response."""
    critic: OnnxCritic | None = None
    """Scores images; None for a bundle without scores."""
    holds: Holds = field(default_factory=Holds, repr=False, compare=False)
    """The running calls."""
    preambles: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """The bytes that all responses share, by image format; a cache of the code that responds."""

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's input and output."""
        return self.bundle.spec

    @cached_property
    def name_in_serials(self) -> str | None:
        """Name of the variant in serials; None for the reference."""
        return self.backend.variant.name_in_serials

    @property
    def manifest(self) -> manifest_pb2.BundleManifest:
        """The bundle's self-description."""
        return self.bundle.manifest

    def with_documents(self, documents: Mapping[str, Document]) -> "ServedVersion":
        """Returns the version with a card and samples that may have changed on disk."""
        if documents == self.bundle.documents:
            return self
        return replace(self, bundle=replace(self.bundle, documents=documents))

    def stay(self) -> None:
        """Raises ModelNotReady if the version was unloaded and its grace period is over."""
        if self.holds.expired:
            raise ModelNotReady(self.spec.name, "it was unloaded", _GONE_RETRY_S, self.version)


@dataclass(frozen=True)
class Version:
    """A version directory and its state."""

    number: int
    directory: Path
    state: State = State.LOADING
    reason: str = ""
    """Why the version is FAILED or UNLOADED. Of a READY version: why the files that replaced its
    own are refused."""
    served: ServedVersion | None = None
    """Set if and only if the state is READY."""
    signature: Signature | None = None
    """The signature of its files when they were last read."""
    attempts: int = 0
    """Number of loads of these files that failed for a transient cause."""
    retry_at: float | None = None
    """The `time.monotonic` value at which loading is retried without a change of the files; None
    waits for a change."""

    @property
    def is_offered(self) -> bool:
        """Whether callers can request the version; it is not necessarily ready."""
        return self.state not in (State.UNLOADING, State.UNLOADED)

    @property
    def is_refused(self) -> bool:
        """Whether its present files are refused. It may still serve with its earlier ones."""
        return self.state is State.FAILED or (self.state is State.READY and bool(self.reason))


@dataclass(frozen=True)
class Model:
    """A model directory and its versions by number, oldest first."""

    name: str
    versions: Mapping[int, Version] = field(default_factory=dict)
    pinned: int | None = None
    """The version that must be the default; None for the newest ready version."""
    problem: str = ""
    """Why no version of the model is known: its directory is unreadable or has no version."""
    awaits_newest: bool = False
    """Whether no older version becomes the default while a newer one is loading."""

    @cached_property
    def default_version(self) -> ServedVersion | None:
        """The version that serves requests without a version."""
        if self.pinned is not None:
            version = self.versions.get(self.pinned)
            return version.served if version else None
        for version in reversed(tuple(self.versions.values())):
            if version.served:
                return version.served
            if self.awaits_newest and version.state is State.LOADING:
                return None
        return None
