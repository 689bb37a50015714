"""The repository as a whole: what lies there, what of it is wanted, and what answers."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle
from imagemint.engine.errors import LoadFailed, ModelNotFound
from imagemint.server.batching import Batcher
from imagemint.server.metrics import Metrics
from imagemint.server.repository.catalogue import Catalogue, reasons_of
from imagemint.server.repository.lifecycle import Lifecycle
from imagemint.server.repository.loading import Loader
from imagemint.server.repository.policy import Policies
from imagemint.server.repository.scan import Found, scan, signature_of
from imagemint.server.repository.served_bytes import ServedBytes
from imagemint.server.repository.versions import Model, ServedVersion, State, Version

_log = logging.getLogger(__name__)

EVERY_MODEL = "*"
_NOT_LOADED = "not loaded"


class ModelRepository:
    """Finds, loads, resolves and unloads the models under one directory.

    A version that is refused disturbs no other, and never takes the place of one that serves: that
    one goes only after another was ready. `models` is one moment of the repository: it is replaced
    as a whole, so whoever looks, on whatever thread, sees one state or the next and never a mix.
    What changes it blocks, and takes turns; `resolve` never waits.

    Args:
        directory: the repository.
        open_backend: what computes a bundle.
        open_batcher: queue and instances in front of a backend.
        metrics: where to count.
        max_bundle_bytes: larger model files are refused.
        max_images: images in one answer at most.
        max_response_bytes: raw bytes in one answer at most.
        policies: which versions serve; all by default.
        wanted: the models that are loaded at first, `*` for all that are there then, others only by
            `load_model`; None for all that there ever are.
        unload_grace_s: time that calls inside an unloaded version have to finish.
        served_bytes: what was served so far, by this process or others; nothing by default.
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
        policies: Policies | None = None,
        wanted: Iterable[str] | None = None,
        unload_grace_s: float = 30.0,
        served_bytes: ServedBytes | None = None,
    ) -> None:
        self.directory = directory
        self._policies = policies or Policies()
        self._catalogue = Catalogue(metrics, self._policies.pins)
        loader = Loader(
            open_backend,
            open_batcher,
            max_bundle_bytes=max_bundle_bytes,
            max_images=max_images,
            max_response_bytes=max_response_bytes,
        )
        self._lifecycle = Lifecycle(
            self._catalogue, loader, metrics, served_bytes or ServedBytes(), unload_grace_s
        )
        self._turn = threading.Lock()
        self._loaded = False
        self._left_out: dict[str, str] = {}
        found = self._look()
        self._wanted = None if wanted is None else set(wanted)
        if self._wanted is not None and EVERY_MODEL in self._wanted:
            self._wanted = set(found.versions)
        self._list(found, found.versions)

    # --- looking at it --------------------------------------------------------------------------

    @property
    def models(self) -> Mapping[str, Model]:
        """One moment of the repository, by name; never changed, but replaced."""
        return self._catalogue.models

    @property
    def ready(self) -> bool:
        """Whether all was tried once and anything serves, or nothing is meant to."""
        serving = any(v.served for model in self.models.values() for v in model.versions.values())
        return self._loaded and (serving or (self._wanted is not None and not self._wanted))

    def resolve(self, name: str, version: str = "") -> ServedVersion:
        """Returns the version that answers for a model.

        Args:
            name: model name.
            version: a positive decimal integer; empty for the default version.

        Raises:
            ModelNotFound: no such model, or it is not loaded.
            VersionNotFound: the model has no such version, or it is not loaded.
            ModelNotReady: it is loading, or was refused.
        """
        return self._catalogue.resolve(name, version)

    def model(self, name: str) -> Model:
        """Returns one model, loaded or not.

        Raises:
            ModelNotFound: no such model.
        """
        return self._catalogue.model(name)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Has a function called, on any thread, after every change; returns what ends that."""
        return self._catalogue.watch(changed)

    # --- changing it ----------------------------------------------------------------------------

    def load(self) -> None:
        """Loads what is wanted of what is there; blocks until each is READY or FAILED.

        Models side by side, one for each core, for nothing is served yet; of each the newest
        version first, so that its default settles early.
        """
        self._refresh(at_once=len(os.sched_getaffinity(0)))
        self._loaded = True
        for name in sorted((self._wanted or set()) - set(self.models)):
            _log.error("no model %s in the repository", name)
        self._catalogue.tell()

    def refresh(self) -> None:
        """Makes what serves agree with what now lies in the repository; blocks.

        A version that was refused is tried again only if its files have changed.

        Raises:
            OSError: the repository cannot be read; all goes on as it is.
        """
        self._refresh(at_once=1)

    def _refresh(self, *, at_once: int) -> None:
        with self._turn, ThreadPoolExecutor(at_once, "loading") as pool:
            found = self._look()
            self._list(found, found.versions)
            names = [
                name for name in {**found.versions, **self.models} if name not in found.unreadable
            ]
            settled = pool.map(lambda name: self._settle(name, found.versions.get(name, {})), names)
            for _ in settled:
                """Raises what one of them raised."""

    def load_model(self, name: str, *, accept_changed: bool = False) -> None:
        """Loads, or brings up to date, one model; blocks.

        Args:
            name: which.
            accept_changed: serve a version although its bytes are not those that were served under
                its number before.

        Raises:
            ModelNotFound: it is not in the repository.
            LoadFailed: a version that should serve was refused; those that did serve still do.
            OSError: the repository cannot be read.
        """
        with self._turn:
            found = self._look()
            if name not in found.versions:
                raise ModelNotFound(name, list(found.versions))
            if self._wanted is not None:
                self._wanted.add(name)
            self._list(found, [name])
            self._settle(name, found.versions[name], again=True, accept=accept_changed)
            versions = self.models[name].versions.values()
            if self._wanted is not None and not any(version.served for version in versions):
                self._wanted.discard(name)
                self._catalogue.tell()
        if faults := [version for version in versions if version.reason and version.is_offered]:
            raise LoadFailed(name, reasons_of(faults))

    def unload_model(self, name: str) -> None:
        """Takes one model out of service until `load_model`; calls inside it may finish.

        Raises:
            ModelNotFound: no such model.
        """
        with self._turn:
            model = self.model(name)
            if self._wanted is not None:
                self._wanted.discard(name)
            self._settle(name, {each.number: each.directory for each in model.versions.values()})

    def close(self, timeout_s: float | None = None) -> None:
        """Finishes what is queued and releases every model.

        Args:
            timeout_s: time for each model to finish; None waits as long as it takes.
        """
        self._lifecycle.closing = True
        in_turn = self._turn.acquire(timeout=-1 if timeout_s is None else timeout_s)
        try:
            self._lifecycle.close(timeout_s)
        finally:
            if in_turn:
                self._turn.release()

    # --- one turn -------------------------------------------------------------------------------

    def _look(self) -> Found:
        found = scan(self.directory)
        for name, why in found.unreadable.items():
            if self._left_out.get(name) != why:
                _log.warning("%s is left out: %s", self.directory / name, why)
        self._left_out = found.unreadable
        return found

    def _list(self, found: Found, settling: Iterable[str]) -> None:
        """Enters what is new, before any of it is loaded: that takes its time."""
        settling = set(settling)
        for name, directories in found.versions.items():
            loading: set[int] = set()
            if name in settling and self._wants(name):
                loading = self._policies.first_choice(name, directories)
            new = [
                Version(number, directory)
                if number in loading
                else Version(number, directory, State.UNLOADED, _NOT_LOADED)
                for number, directory in directories.items()
                if self._catalogue.version(name, number) is None
            ]
            if new:
                self._catalogue.put(name, *new)

    def _wants(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted

    def _settle(
        self,
        name: str,
        directories: Mapping[int, Path],
        *,
        again: bool = False,
        accept: bool = False,
    ) -> None:
        """Loads what should serve of a model, and only then unloads what should not."""
        policy, pin = self._policies.of(name), self._policies.pins.get(name)
        candidates = self._policies.candidates(name, directories) if self._wants(name) else []
        kept: set[int] = set()
        tried: set[int] = set()
        for number in candidates:
            if not policy.is_full(len(kept)) or number == pin:
                tried.add(number)
                if self._serves(name, number, directories[number], again=again, accept=accept):
                    kept.add(number)
            if self._lifecycle.closing:
                return
        why = f"version_policy is {policy.text}" if self._wants(name) else _NOT_LOADED
        model = self.models.get(name)  # gone, if all that was left of it has just been unloaded
        for version in model.versions.values() if model else ():
            if version.number not in directories:
                self._lifecycle.unload(name, version, None)
            elif version.number not in tried:
                left = Version(version.number, version.directory, State.UNLOADED, why)
                self._lifecycle.unload(name, version, left)

    def _serves(
        self, name: str, number: int, directory: Path, *, again: bool, accept: bool
    ) -> bool:
        """Whether a version serves; it is loaded, or looked at again, if there is reason to."""
        version = self._catalogue.version(name, number) or Version(number, directory)
        signature = signature_of(directory)
        tried = version.state in (State.READY, State.FAILED)
        if tried and version.signature == signature and not again:
            return version.served is not None
        version = replace(version, directory=directory, signature=signature)
        return self._lifecycle.load(name, version, accept=accept)
