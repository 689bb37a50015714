"""The nouns of the repository: models, their versions, and who holds one.

All but `Holds` are frozen: whoever has a model in hand sees one moment of it, on any thread.
"""

import enum
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle
from imagemint.engine.errors import ModelNotReady
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching import Batcher
from imagemint.server.repository.scan import Signature
from imagemint.v1 import manifest_pb2

_GONE_RETRY_S = 0.1


class State(enum.Enum):
    """Whether a version answers."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    """Takes no new calls; those inside finish."""
    UNLOADED = "unloaded"
    """On disk, and not wanted."""


class Holds:
    """The calls that a version answers, counted, so that it can be taken away behind the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held = 0
        self._retired = False
        self._expired = False

    def take(self) -> bool:
        """Enters a call; False when the version takes no more, and another must be resolved."""
        with self._lock:
            if not self._retired:
                self._held += 1
            return not self._retired

    def give(self) -> None:
        """Leaves again."""
        with self._lock:
            self._held -= 1
            if self._retired:  # nobody waits before
                self._changed.notify_all()

    def retire(self) -> None:
        """From now on nobody enters."""
        with self._changed:
            self._retired = True

    def expire(self) -> None:
        """Asks those who are still inside to leave, and no longer waits for them."""
        with self._changed:
            self._expired = True
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Waits until nobody is inside, and tells whether that is so; not beyond `expire`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._expired, timeout_s)
            return not self._held

    @property
    def expired(self) -> bool:
        """Whether those who are still inside should leave."""
        return self._expired


@dataclass(frozen=True)
class ServedVersion:
    """A version that answers."""

    version: int
    bundle: Bundle
    backend: Backend
    batcher: Batcher
    max_images: int
    """Images in one answer at most."""
    holds: Holds = field(default_factory=Holds, repr=False, compare=False)
    """The calls inside."""
    preambles: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """What its answers share, by the format of their pictures; kept by whoever answers."""

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's input and output."""
        return self.bundle.spec

    @property
    def manifest(self) -> manifest_pb2.BundleManifest:
        """The bundle's self-description."""
        return self.bundle.manifest

    def stay(self) -> None:
        """Raises ModelNotReady when the version was unloaded and its grace has passed."""
        if self.holds.expired:
            why = f"version {self.version} was unloaded"
            raise ModelNotReady(self.spec.name, why, _GONE_RETRY_S)


@dataclass(frozen=True)
class Version:
    """A version directory, whatever became of it."""

    number: int
    directory: Path
    state: State = State.LOADING
    reason: str = ""
    """Why it FAILED or is UNLOADED; of one that is READY, why the bytes that have since taken the
    place of its own are refused."""
    served: ServedVersion | None = None
    """Set exactly when READY."""
    signature: Signature | None = None
    """What its files looked like when they were last read."""
    attempts: int = 0
    """Loads of these files that failed for a passing cause."""
    retry_at: float | None = None
    """The `time.monotonic` value from which it is tried again though no file has changed; None to
    wait for a change."""

    @property
    def is_offered(self) -> bool:
        """Whether callers may ask for it, though it may not be ready, or never be."""
        return self.state not in (State.UNLOADING, State.UNLOADED)


@dataclass(frozen=True)
class Model:
    """A model directory and its versions by number, oldest first."""

    name: str
    versions: Mapping[int, Version] = field(default_factory=dict)
    pinned: int | None = None
    """The version that must be the default, and no other; None for the newest that is ready."""
    problem: str = ""
    """Why no version of it is known: its folder cannot be read, or holds none."""

    @cached_property
    def default_version(self) -> ServedVersion | None:
        """The version that answers when a request names none."""
        if self.pinned is not None:
            version = self.versions.get(self.pinned)
            return version.served if version else None
        ready = [version.served for version in self.versions.values() if version.served]
        return ready[-1] if ready else None
