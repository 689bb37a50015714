"""The repository as a whole: what lies there, what of it is wanted, and what answers."""

import contextlib
import errno
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import replace
from functools import partial
from pathlib import Path

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.variants import REFERENCE
from imagemint.engine.errors import LoadFailed, ModelNotFound
from imagemint.engine.trial.trials import Trials
from imagemint.server.batching import Batcher
from imagemint.server.repository.lifecycle import Lifecycle
from imagemint.server.repository.loading import Loader
from imagemint.server.repository.loading_threads import Lane
from imagemint.server.repository.scan import Found, scan, signature_of
from imagemint.server.repository.served_digests import ServedBytes
from imagemint.server.repository.snapshot import Catalogue, reasons_of
from imagemint.server.repository.version_policy import Policies
from imagemint.server.repository.versions import Model, ServedVersion, State, Version
from imagemint.server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

EVERY_MODEL = "*"
_NOT_LOADED = "not loaded"
# What is being loaded when the server leaves; whatever takes longer is left behind.
_LOADING_S = 1.0


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
        trials: tries bundles in processes of their own, unless loading them is known to be cheap;
            None for no trials.
        variant_of: the variant that is served of a model, by its name.
        unload_when_empty: whether versions are unloaded when the repository, or the folder of their
            model, is found without any version. A mount that is lost looks like that.
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
        trials: Trials | None = None,
        variant_of: Callable[[str], str] = lambda _: REFERENCE,
        unload_when_empty: bool = False,
    ) -> None:
        self._metrics = metrics
        self._unload_when_empty = unload_when_empty
        self.directory = directory
        self._policies = policies or Policies()
        self._catalogue = Catalogue(metrics, self._policies.pins)
        loader = Loader(
            open_backend,
            open_batcher,
            max_bundle_bytes=max_bundle_bytes,
            max_images=max_images,
            max_response_bytes=max_response_bytes,
            trials=trials,
            variant_of=variant_of,
        )
        self._lifecycle = Lifecycle(
            self._catalogue, loader, metrics, served_bytes or ServedBytes(), unload_grace_s
        )
        cores = len(os.sched_getaffinity(0))
        # Trials have threads of their own: what takes long must not keep what is quick.
        self._quick = Lane(cores, "loading")
        self._trying = Lane(cores, "trying")
        self._looking = threading.Lock()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._settling: dict[str, Future[None]] = {}
        self._outdated: set[str] = set()
        self._scheduling = threading.Lock()  # of the two before
        self._loaded = False
        self._left_out: dict[str, str] = {}
        self._found = found = self._look()
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
    def loaded(self) -> bool:
        """Whether all was tried once, or waited for long enough."""
        return self._loaded

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

        Models side by side, one for each core; of each the newest version first, so that its
        default settles early. What must be tried first keeps no other model waiting.
        """
        self.refresh()
        if self._lifecycle.closing:
            return
        self.end_wait()
        for name in sorted((self._wanted or set()) - set(self.models)):
            _log.error("no model %s in the repository", name)

    def end_wait(self) -> None:
        """Lets `ready` be true from now on, although something may still be loading."""
        if not self._loaded:
            self._loaded = True
            self._catalogue.tell()

    def refresh(self, *, wait: bool = True) -> None:
        """Makes what serves agree with what now lies in the repository.

        A version that was refused is tried again if its files have changed, or, where the cause may
        pass, after a while.

        Args:
            wait: whether to block until that is done.

        Raises:
            OSError: the repository cannot be read, or is empty although models of it serve; all
                goes on as it is.
        """
        with self._looking:
            self._found = found = self._look()
            self._list(found, found.versions)
            self._fail_unreadable(found)
            names = {**found.versions, **self.models}
            settling = [self._settle_soon(n) for n in names if n not in found.unreadable]
        for each in settling if wait else ():
            with contextlib.suppress(CancelledError):  # the end has come
                each.result()

    def retry(self) -> None:
        """Tries versions again that failed for a cause that may have passed; does not wait."""
        now = time.monotonic()
        for name, model in self.models.items():
            due = [v.retry_at for v in model.versions.values() if v.retry_at is not None]
            if due and min(due) <= now:
                self._settle_soon(name)

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
        with self._turns[name]:
            with self._looking:
                self._found = found = self._look()
                if name in found.unreadable and name not in found.versions:
                    raise LoadFailed(name, found.unreadable[name])
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
        with self._turns[name]:
            model = self.model(name)
            if self._wanted is not None:
                self._wanted.discard(name)
            self._settle(name, {each.number: each.directory for each in model.versions.values()})

    def close(self, timeout_s: float | None = None) -> None:
        """Finishes what is queued and releases every model.

        Args:
            timeout_s: time for each model to finish; None waits as long as it takes.
        """
        self._lifecycle.end_trials()
        limit_s = _LOADING_S if timeout_s is None else min(timeout_s, _LOADING_S)
        self._quick.close(limit_s)
        self._trying.close(limit_s)
        for each in tuple(self._settling.values()):
            each.cancel()
        self._lifecycle.close(timeout_s)

    @property
    def is_busy(self) -> bool:
        """Whether a bundle is being loaded."""
        return self._quick.is_busy or self._trying.is_busy

    # --- one turn -------------------------------------------------------------------------------

    def _look(self) -> Found:
        """Looks at the repository.

        Raises:
            OSError: it cannot be read, or a mount seems to be lost.
        """
        try:
            found = scan(self.directory)
            self._check_mount(found)
        except OSError:
            self._metrics.repository_lost.set(1)
            raise
        self._metrics.repository_lost.set(0)
        left_out = {**found.ignored, **found.unreadable}
        for name, why in left_out.items():
            if self._left_out.get(name) != why:
                _log.warning("%s is left out: %s", self.directory / name, why)
        self._left_out = left_out
        self._catalogue.note_problems(found.unreadable)
        return found

    def _check_mount(self, found: Found) -> None:
        """Tells empty folders in the place of models that serve from models that were removed."""
        if self._unload_when_empty:
            return
        serving = {n for n, m in self.models.items() if any(v.served for v in m.versions.values())}
        if serving and not found.versions and not found.unreadable:
            raise OSError(
                errno.ENODATA,
                "no model in it any more, as if a mount were lost; unload_when_empty unloads them",
            )
        for name in serving & found.empty:
            found.unreadable[name] = (
                "its folder is empty, as if a mount were lost; remove the folder to unload it"
            )

    def _fail_unreadable(self, found: Found) -> None:
        """Settles versions that were to be loaded from a folder that cannot be read any more."""
        for name, why in found.unreadable.items():
            model = self.models.get(name)
            for version in model.versions.values() if model else ():
                if version.state is State.LOADING and name not in self._settling:
                    self._catalogue.put(name, replace(version, state=State.FAILED, reason=why))

    def _settle_soon(self, name: str) -> "Future[None]":
        """Has a model settled by what was found last; at once, or when that is done once more."""
        with self._scheduling:
            if name in self._settling:
                self._outdated.add(name)
                return self._settling[name]
            self._settling[name] = done = Future[None]()
        self._pass_on(self._quick, name, done)
        return done

    def _pass_on(self, lane: Lane, name: str, done: "Future[None]") -> None:
        may_try = lane is self._trying
        if lane.submit(partial(self._settle_in_turn, name, done, may_try=may_try)).cancelled():
            done.cancel()  # the end has come

    def _settle_in_turn(self, name: str, done: "Future[None]", *, may_try: bool) -> None:
        failure: Exception | None = None
        try:
            with self._turns[name]:
                directories = self._found.versions.get(name, {})
                needs_trial = self._settle(name, directories, may_try=may_try)
            if needs_trial and not may_try:
                self._pass_on(self._trying, name, done)
                return
        except Exception as error:  # noqa: BLE001 - whoever waits gets it, and the rest goes on
            _log.exception("model %s was not brought up to date", name)
            failure = error
        with self._scheduling:
            outdated = name in self._outdated
            self._outdated.discard(name)
            if not outdated:
                del self._settling[name]
        if outdated:
            self._pass_on(self._quick, name, done)
            return
        with contextlib.suppress(InvalidStateError):  # cancelled, for the end has come
            done.set_result(None) if failure is None else done.set_exception(failure)

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
        may_try: bool = True,
    ) -> bool:
        """Loads what should serve of a model, and only then unloads what should not.

        Returns:
            Whether a version is left that takes a trial; another stands in for it meanwhile.
        """
        policy, pin = self._policies.of(name), self._policies.pins.get(name)
        candidates = self._policies.candidates(name, directories) if self._wants(name) else []
        kept: set[int] = set()
        tried: set[int] = set()
        needs_trial = False
        for number in candidates:
            if not policy.is_full(len(kept)) or number == pin:
                tried.add(number)
                serves = self._serves(
                    *(name, number, directories[number]),
                    again=again,
                    accept=accept,
                    may_try=may_try,
                )
                needs_trial |= serves is None
                if serves:
                    kept.add(number)
            if self._lifecycle.closing:
                return False
        why = f"version_policy is {policy.text}" if self._wants(name) else _NOT_LOADED
        model = self.models.get(name)  # gone, if all that was left of it has just been unloaded
        for version in model.versions.values() if model else ():
            if version.number not in directories:
                self._lifecycle.unload(name, version, None)
            elif version.number not in tried:
                left = Version(version.number, version.directory, State.UNLOADED, why)
                self._lifecycle.unload(name, version, left)
        return needs_trial

    def _serves(
        self, name: str, number: int, directory: Path, *, again: bool, accept: bool, may_try: bool
    ) -> bool | None:
        """Whether a version serves; it is loaded, or looked at again, if there is reason to.

        None if it takes a trial, and there is no time for one.
        """
        version = self._catalogue.version(name, number) or Version(number, directory)
        signature = signature_of(directory)
        tried = version.state in (State.READY, State.FAILED)
        is_due = version.retry_at is not None and version.retry_at <= time.monotonic()
        if tried and version.signature == signature and not again and not is_due:
            return version.served is not None
        if version.signature != signature:
            version = replace(version, attempts=0, retry_at=None)
        version = replace(version, directory=directory, signature=signature)
        return self._lifecycle.load(name, version, accept=accept, may_try=may_try)
