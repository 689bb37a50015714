"""The model repository as a whole: what it contains, what is wanted, and what serves."""

import contextlib
import errno
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.variants import REFERENCE
from imagemint.engine.errors import LoadFailed, ModelNotFound
from imagemint.server.batching import Batcher
from imagemint.server.cores import count_usable_cores
from imagemint.server.repository.lifecycle import Lifecycle
from imagemint.server.repository.loading import Loader
from imagemint.server.repository.loading_threads import DaemonPool
from imagemint.server.repository.scan import Found
from imagemint.server.repository.served_digests import ServedDigests
from imagemint.server.repository.shared_trials import TrialRunner
from imagemint.server.repository.snapshot import Catalogue, join_reasons
from imagemint.server.repository.source import Source, SourceLost
from imagemint.server.repository.version_policy import Policies
from imagemint.server.repository.versions import Model, ServedVersion, State, Version
from imagemint.server.telemetry.metrics import Metrics

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.server.repository.key_file import KeyFile

_log = logging.getLogger(__name__)

EVERY_MODEL = "*"
LONG_SCAN_S = 60.0
"""Seconds after which a scan that has not ended means that the repository is lost."""
_NOT_LOADED = "not loaded"
# Time for loads under way when the server stops. Longer ones are abandoned.
_LOADING_S = 1.0


class ModelRepository:
    """Finds, loads, resolves and unloads the models of one repository.

    A refused version affects no other version. A version that serves is replaced only after its
    successor is ready. `models` is an immutable snapshot that is replaced as a whole, so every
    thread sees a consistent state. Methods that change the repository block and run one at a time
    per model; `resolve` never blocks.

    Args:
        source: lists the repository, and brings its bundles to the local disk.
        open_backend: returns the backend of a bundle.
        open_batcher: returns the batcher in front of a backend.
        metrics: the metrics to update.
        max_bundle_bytes: maximum size of a model file.
        max_images: maximum number of images in one response.
        max_response_bytes: maximum raw bytes of images in one response.
        policies: the versions to serve. Default: all.
        wanted: the models to load at startup, `*` for all that are present then; others are loaded
            only by `load_model`. None: load all models, also those that are added later.
        unload_grace_s: time for the running calls of an unloaded version to finish.
        served_digests: digests that were served so far, by this process or others. Default: none.
        trials: loads bundles in separate processes if their cost is not known to be low; None for
            no trials.
        variant_of: returns the variant to serve, by model name.
        keys: keys of which one must have signed each bundle. Default: no signature is required.
        unload_when_empty: whether to unload models when the repository, or the directory of a
            model, contains no version. A lost mount looks the same.
        served_elsewhere: returns the versions that other workers serve, by model. Default: there
            are no other workers.
    """

    def __init__(
        self,
        source: Source,
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
        served_digests: ServedDigests | None = None,
        trials: TrialRunner | None = None,
        variant_of: Callable[[str], str] = lambda _: REFERENCE,
        keys: "KeyFile | None" = None,
        unload_when_empty: bool = False,
        served_elsewhere: Callable[[], Mapping[str, Collection[int]]] = dict,
    ) -> None:
        self._metrics = metrics
        self._unload_when_empty = unload_when_empty
        self._source = source
        self.directory = source.directory
        self._policies = policies or Policies()
        self._catalogue = Catalogue(metrics, self._policies.pins, served_elsewhere)
        loader = Loader(
            source,
            open_backend,
            open_batcher,
            max_bundle_bytes=max_bundle_bytes,
            max_images=max_images,
            max_response_bytes=max_response_bytes,
            trials=trials,
            variant_of=variant_of,
            keys=keys,
        )
        self._lifecycle = Lifecycle(
            self._catalogue, loader, metrics, served_digests or ServedDigests(), unload_grace_s
        )
        cores = count_usable_cores()
        # Trials have separate threads, so that slow loads do not delay fast ones.
        self._threads = DaemonPool(cores, "loading")
        self._trial_threads = DaemonPool(cores, "trying")
        self._scan_lock = threading.Lock()
        self._model_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._updates: dict[str, Future[None]] = {}
        self._outdated: set[str] = set()
        self._scheduling = threading.Lock()  # guards the two fields above
        self._loaded = False
        self.is_outdated = False
        """Whether the scan at startup failed, so that `refresh` must be called again."""
        self._left_out: dict[str, str] = {}
        self._absent_pins: set[str] = set()
        self._lost = False
        self._scan_began_s: float | None = None
        metrics.watch(metrics.repository_lost, (), self._find_lost)
        self._wanted = None if wanted is None else set(wanted)
        # Without waiting for a network, because this runs on the event loop.
        self._found = found = self._scan(source.list_present)
        self._list_new(found, found.versions)

    # --- reading --------------------------------------------------------------------------------

    @property
    def models(self) -> Mapping[str, Model]:
        """An immutable snapshot of the models, by name; every change replaces it."""
        return self._catalogue.models

    @property
    def loaded(self) -> bool:
        """Whether every wanted version was tried once, or the wait at startup is over."""
        return self._loaded

    @property
    def ready(self) -> bool:
        """Whether the repository is loaded and a version serves, or no model is wanted."""
        return self._loaded and (self.is_serving or (self._wanted is not None and not self._wanted))

    @property
    def is_serving(self) -> bool:
        """Whether any version serves."""
        return any(v.served for model in self.models.values() for v in model.versions.values())

    def resolve(self, name: str, version: str = "") -> ServedVersion:
        """Returns the version that serves requests for a model.

        Args:
            name: model name.
            version: a positive decimal integer; empty for the default version.

        Raises:
            ModelNotFound: there is no such model, or it is not loaded.
            VersionNotFound: the model has no such version, or it is not loaded.
            ModelNotReady: the version is loading, or was refused, or only other workers serve it.
        """
        return self._catalogue.resolve(name, version)

    def get_model(self, name: str) -> Model:
        """Returns one model, loaded or not.

        Raises:
            ModelNotFound: there is no such model.
            ModelNotReady: only other workers have it.
        """
        return self._catalogue.get_model(name)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls a function on any thread after every change; returns a function that stops it."""
        return self._catalogue.watch(changed)

    # --- changing -------------------------------------------------------------------------------

    def load(self, max_age_s: float = 0.0) -> None:
        """Loads all wanted versions; blocks until each is READY or FAILED.

        Models load in parallel, one per CPU core. Within a model, the newest version loads first,
        so that its default is ready early. A trial delays no other model.

        Args:
            max_age_s: see `refresh`.

        Raises:
            OSError: the repository cannot be read. If only the network fails, the versions that are
                on the local disk load, and `is_outdated` is set.
        """
        try:
            self.refresh(max_age_s=max_age_s)
        except SourceLost as error:
            _log.error("%s; the server continues with earlier copies", error)
            self.is_outdated = True
            with self._scan_lock:
                settling = self._schedule_all(self._found)
            _wait_for(settling)
        if self._lifecycle.closing:
            return
        self.end_wait()
        for name in sorted((self._wanted or set()) - set(self.models) - {EVERY_MODEL}):
            _log.error("no model %s in the repository", name)

    def end_wait(self) -> None:
        """Marks the repository as loaded although some versions may still be loading."""
        if not self._loaded:
            self._loaded = True
            self._catalogue.end_start()

    def refresh(self, *, wait: bool = True, max_age_s: float = 0.0) -> None:
        """Scans the repository and updates the served models.

        It retries a refused version if its files changed, or after a delay if the cause was
        transient.

        Args:
            wait: whether to block until the update is done.
            max_age_s: age up to which a listing of another process will do.

        Raises:
            OSError: the repository cannot be read, or is empty although models serve. Nothing
                changes then.
        """
        with self._scan_lock:
            self._found = found = self._scan(partial(self._source.scan, max_age_s))
            self.is_outdated = False
            if self._wanted is not None and EVERY_MODEL in self._wanted:
                self._wanted = (self._wanted | found.versions.keys()) - {EVERY_MODEL}
            settling = self._schedule_all(found)
        if wait:
            _wait_for(settling)

    def _schedule_all(self, found: Found) -> "list[Future[None]]":
        """Queues the updates of all models after a scan."""
        self._list_new(found, found.versions)
        self._fail_unreadable(found)
        self._delete_unused()
        names = {**found.versions, **self.models}
        return [self._schedule(name) for name in names if name not in found.unreadable]

    def _delete_unused(self) -> None:
        """Deletes local copies of versions that are not wanted."""
        versions = [v for model in self.models.values() for v in model.versions.values()]
        self._source.delete_unused([v.directory for v in versions if v.state is not State.UNLOADED])

    def retry(self) -> None:
        """Retries versions whose retry time has come, from the files of the last scan."""
        now = time.monotonic()
        for name, model in self.models.items():
            due = [v.retry_at for v in model.versions.values() if v.retry_at is not None]
            if due and min(due) <= now:
                self._schedule(name)

    def load_model(self, name: str, *, accept_changed: bool = False) -> None:
        """Loads one model or brings it up to date; blocks.

        Args:
            name: the model.
            accept_changed: whether to accept a digest that differs from the one served under the
                same version number before.

        Raises:
            ModelNotFound: the model is not in the repository.
            LoadFailed: a wanted version was refused; versions that served before still serve.
            OSError: the repository cannot be read.
        """
        with self._model_locks[name]:
            with self._scan_lock:
                self._found = found = self._scan(self._source.scan)
                if name in found.unreadable and name not in found.versions:
                    raise LoadFailed(name, found.unreadable[name])
                if name not in found.versions:
                    raise ModelNotFound(name, list(found.versions))
                if self._wanted is not None:
                    self._wanted.add(name)
                self._list_new(found, [name])
                self._delete_unused()
            self._update(name, found.versions[name], again=True, accept=accept_changed)
            versions = self.models[name].versions.values()
            if self._wanted is not None and not any(version.served for version in versions):
                self._wanted.discard(name)
                self._catalogue.notify()
        if faults := [version for version in versions if version.reason and version.is_offered]:
            raise LoadFailed(name, join_reasons(faults))

    def unload_model(self, name: str) -> None:
        """Takes one model out of service until `load_model`; its running calls can finish.

        Raises:
            ModelNotFound: there is no such model.
        """
        with self._model_locks[name]:
            model = self.models.get(name)
            if model is None:
                raise ModelNotFound(name, list(self.models))
            if self._wanted is not None:
                self._wanted.discard(name)
            self._update(
                name, {version.number: version.directory for version in model.versions.values()}
            )

    def close(self, timeout_s: float | None = None) -> None:
        """Finishes the queued work and releases every model.

        Args:
            timeout_s: time for each model to finish; None means no limit.
        """
        self._lifecycle.end_trials()
        limit_s = _LOADING_S if timeout_s is None else min(timeout_s, _LOADING_S)
        self._threads.close(limit_s)
        self._trial_threads.close(limit_s)
        for future in tuple(self._updates.values()):
            future.cancel()
        self._lifecycle.close(timeout_s)

    @property
    def is_busy(self) -> bool:
        """Whether a bundle is being loaded."""
        return self._threads.is_busy or self._trial_threads.is_busy

    # --- one update -----------------------------------------------------------------------------

    def _scan(self, look: Callable[[], Found]) -> Found:
        """Scans the repository, and reports ignored and unreadable entries.

        Args:
            look: scans it.

        Raises:
            OSError: the repository cannot be read, or its mount seems to be lost.
        """
        self._scan_began_s = time.monotonic()
        try:
            found = look()
            self._check_mount(found)
        except OSError:
            self._lost = True
            raise
        finally:
            self._scan_began_s = None
        self._lost = False
        self._report_absent_pins(found)
        left_out = {**found.ignored, **found.unreadable}
        for name, why in left_out.items():
            if self._left_out.get(name) != why:
                _log.warning("%s/%s is left out: %s", self._source.place, name, why)
        self._left_out = left_out
        self._catalogue.note_problems(found.unreadable)
        return found

    def _find_lost(self) -> bool:
        """Returns whether the repository could not be read lately. A dead mount never answers."""
        began_s = self._scan_began_s
        return self._lost or (began_s is not None and time.monotonic() - began_s > LONG_SCAN_S)

    def _report_absent_pins(self, found: Found) -> None:
        """Logs each default version that does not exist, once until it does."""
        absent = {
            name
            for name, pin in self._policies.pins.items()
            if pin not in found.versions.get(name, (pin,))
        }
        for name in sorted(absent - self._absent_pins):
            _log.error(
                "model %s has no version %d, its default by default_versions; requests without a"
                " version get UNAVAILABLE",
                name,
                self._policies.pins[name],
            )
        self._absent_pins = absent

    def _check_mount(self, found: Found) -> None:
        """Treats empty directories of models that serve as a lost mount, not as removed models."""
        if self._unload_when_empty:
            return
        serving = {n for n, m in self.models.items() if any(v.served for v in m.versions.values())}
        if serving and not found.versions and not found.unreadable:
            raise OSError(
                errno.ENODATA,
                "it contains no model any more, perhaps because a mount was lost; set"
                " unload_when_empty to unload them",
            )
        for name in serving & found.empty:
            found.unreadable[name] = (
                "its folder is empty, perhaps because a mount was lost; remove the folder to"
                " unload it"
            )

    def _fail_unreadable(self, found: Found) -> None:
        """Marks versions FAILED that were to be loaded from a directory that became unreadable."""
        for name, why in found.unreadable.items():
            model = self.models.get(name)
            for version in model.versions.values() if model else ():
                if version.state is State.LOADING and name not in self._updates:
                    self._catalogue.put(name, replace(version, state=State.FAILED, reason=why))

    def _schedule(self, name: str) -> "Future[None]":
        """Queues the update of a model. If one is running, another follows it."""
        with self._scheduling:
            if name in self._updates:
                self._outdated.add(name)
                return self._updates[name]
            self._updates[name] = done = Future[None]()
        self._submit(self._threads, name, done)
        return done

    def _submit(self, lane: DaemonPool, name: str, done: "Future[None]") -> None:
        may_try = lane is self._trial_threads
        if lane.submit(partial(self._run_update, name, done, may_try=may_try)).cancelled():
            done.cancel()  # the server stops

    def _run_update(self, name: str, done: "Future[None]", *, may_try: bool) -> None:
        failure: Exception | None = None
        try:
            with self._model_locks[name]:
                directories = self._found.versions.get(name, {})
                needs_trial = self._update(name, directories, may_try=may_try)
            if needs_trial and not may_try:
                self._submit(self._trial_threads, name, done)
                return
        except Exception as error:  # noqa: BLE001 - the future carries it; other models go on
            _log.exception("model %s was not brought up to date", name)
            failure = error
        with self._scheduling:
            outdated = name in self._outdated
            self._outdated.discard(name)
            if not outdated:
                del self._updates[name]
        if outdated:
            self._submit(self._threads, name, done)
            return
        with contextlib.suppress(InvalidStateError):  # cancelled, because the server stops
            done.set_result(None) if failure is None else done.set_exception(failure)

    def _list_new(self, found: Found, settling: Iterable[str]) -> None:
        """Lists new versions before they are loaded, because loading can take long."""
        settling = set(settling)
        for name, directories in found.versions.items():
            loading: set[int] = set()
            if name in settling and self._wants(name):
                loading = self._policies.choose_first(name, directories)
            new = [
                Version(number, directory)
                if number in loading
                else Version(number, directory, State.UNLOADED, _NOT_LOADED)
                for number, directory in directories.items()
                if self._catalogue.get_version(name, number) is None
            ]
            if new:
                self._catalogue.put(name, *new)

    def _wants(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted or EVERY_MODEL in self._wanted

    def _update(
        self,
        name: str,
        directories: Mapping[int, Path],
        *,
        again: bool = False,
        accept: bool = False,
        may_try: bool = True,
    ) -> bool:
        """Loads the wanted versions of a model, and only then unloads the others.

        Returns:
            Whether a version still needs a trial. Another version serves in the meantime.
        """
        policy, pin = self._policies.of(name), self._policies.pins.get(name)
        candidates = self._policies.list_candidates(name, directories) if self._wants(name) else []
        kept: set[int] = set()
        attempted: set[int] = set()
        needs_trial = False
        for number in candidates:
            if not policy.is_full(len(kept)) or number == pin:
                attempted.add(number)
                serves = self._ensure_served(
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
        model = self.models.get(name)  # None if its last version was just unloaded
        for version in model.versions.values() if model else ():
            if version.number not in directories:
                self._lifecycle.unload(name, version, None)
            elif version.number not in attempted:
                left = Version(version.number, version.directory, State.UNLOADED, why)
                self._lifecycle.unload(name, version, left)
        return needs_trial

    def _ensure_served(
        self, name: str, number: int, directory: Path, *, again: bool, accept: bool, may_try: bool
    ) -> bool | None:
        """Loads or checks a version if needed, and returns whether it serves.

        Returns None if the version needs a trial and `may_try` is false.
        """
        version = self._catalogue.get_version(name, number) or Version(number, directory)
        signature = self._source.read_signature(directory)
        is_settled = version.state in (State.READY, State.FAILED)
        is_due = version.retry_at is not None and version.retry_at <= time.monotonic()
        if is_settled and version.signature == signature and not again and not is_due:
            return version.served is not None
        if version.signature != signature:
            version = replace(version, attempts=0, retry_at=None)
        version = replace(version, directory=directory, signature=signature)
        return self._lifecycle.load(name, version, accept=accept, may_try=may_try)


def _wait_for(settling: "Iterable[Future[None]]") -> None:
    for future in settling:
        with contextlib.suppress(CancelledError):  # the server stops
            future.result()
