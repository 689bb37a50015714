"""The lifecycle of one version: loads and unloads it, and updates metrics, log and snapshot."""

import logging
import threading
import time
from dataclasses import replace

from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.errors import BundleRefused, ImagemintError
from imagemint.engine.failure_causes import is_passing
from imagemint.server.repository.loading import Loader, close, explain_failure
from imagemint.server.repository.served_digests import ServedDigests
from imagemint.server.repository.snapshot import Catalogue
from imagemint.server.repository.unloading import Unloading
from imagemint.server.repository.versions import ServedVersion, State, Version
from imagemint.server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

# Delays before a load that failed for a transient cause is retried. Each delay doubles the last.
_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 600.0


class _NeedsTrial(Exception):  # noqa: N818 - the name states the condition
    """A bundle must be fetched, or loaded in a trial process, first; both may take long."""


class Lifecycle:
    """Moves versions through their states. Only one thread at a time handles the same model.

    A version number is immutable: while the server runs, it refuses a bundle whose digest differs
    from the one that was served under the same number before, unless the caller accepts the change.

    Args:
        catalogue: lists the versions.
        loader: opens versions.
        metrics: the metrics to update.
        served_digests: the digests that were served so far.
        unload_grace_s: time for the running calls of an unloaded version to finish.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        loader: Loader,
        metrics: Metrics,
        served_digests: ServedDigests,
        unload_grace_s: float,
    ) -> None:
        self.closing = False
        """Whether the server stops. Versions whose loading completes after that do not serve."""
        self._catalogue = catalogue
        self._loader = loader
        self._metrics = metrics
        self._unloading = Unloading(unload_grace_s)
        self._served_digests = served_digests
        # Two versions of one number can exist at once, one of them unloading. They share labels.
        self._labels = threading.Lock()
        self._opening: set[tuple[str, int]] = set()

    def load(
        self, name: str, version: Version, *, accept: bool, may_try: bool = True
    ) -> bool | None:
        """Loads a version, or checks the changed files of a version that serves.

        Args:
            name: the model.
            version: the version as listed, with the current signature of its files.
            accept: whether the digest may differ from the one served under this number before.
            may_try: whether this thread may run a trial.

        Returns:
            Whether a version of that number serves now; None if it needs a trial first.
        """
        key, previous = (name, version.number), version.served
        if previous is None:
            self._catalogue.put(name, replace(version, state=State.LOADING, reason=""))
        began = time.perf_counter()
        try:
            served = self._open_whole(key, version, accept=accept, may_try=may_try)
            if previous is not None and served.backend is previous.backend:
                self._catalogue.put(name, replace(_clear_failure(version), served=served))
                return True
            if self.closing:
                close(served)
                return False
            self._remember(key, served, accept=accept)
        except _NeedsTrial:
            return None
        except Exception as error:  # noqa: BLE001 - a faulty file must not affect other versions
            self._refuse(name, version, error)
            return previous is not None
        self._catalogue.put(
            name, replace(_clear_failure(version), state=State.READY, served=served)
        )
        with self._labels:
            self._opening.discard(key)
        self._log_loaded(name, served, time.perf_counter() - began)
        if previous is not None:
            self._unloading.begin(previous, lambda: self._forget(previous))
        return True

    def _open_whole(
        self, key: tuple[str, int], version: Version, *, accept: bool, may_try: bool
    ) -> ServedVersion:
        """Does the same as `_open`, and drops a damaged local copy, which a retry replaces."""
        try:
            return self._open(key, version, accept=accept, may_try=may_try)
        except BundleRefused as error:
            if error.passing or not self._loader.repair(version.directory):
                raise
            why = f"its copy on this machine was damaged: {error.why}"
            raise BundleRefused(version.directory, why, passing=True) from error

    def _open(
        self, key: tuple[str, int], version: Version, *, accept: bool, may_try: bool
    ) -> ServedVersion:
        """Returns the version to serve: a new one, or the present one if its digest is unchanged.

        The present one gets the card and samples that the directory has now.

        Raises:
            _NeedsTrial: the bundle needs a trial or must be fetched, and `may_try` is false.
            Exception: the bundle cannot be loaded.
        """
        loader, present, trial_result = self._loader, version.served, None
        if not loader.is_present(version.directory):
            if not may_try:  # like a trial, a copy may take long
                raise _NeedsTrial
            loader.fetch(version.directory)
        if loader.needs_trial(version.directory):
            trial_result = self._try_out(version, may_try=may_try)
        bundle = loader.read(version.directory)
        if not accept:
            _refuse_changed(bundle, self._served_digests.find_digest(*key))
        if present is not None and present.bundle.sha256 == bundle.sha256:
            return present.with_documents(bundle.documents)
        if trial_result is None and loader.needs_trial(bundle):
            trial_result = self._try_out(version, may_try=may_try)
        with self._labels:
            self._opening.add(key)
        return loader.open(bundle, trial_result)

    def _try_out(self, version: Version, *, may_try: bool) -> tuple[str, Findings]:
        if not may_try:
            raise _NeedsTrial
        return self._loader.try_out(version.directory)

    def unload(self, name: str, version: Version, after: Version | None) -> None:
        """Takes a version out of service after its running calls.

        Args:
            name: the model.
            version: the version as listed.
            after: the entry that replaces it in the list; None removes it.
        """
        if version.state is State.UNLOADING or version == after:
            return
        served = version.served
        if served is None:
            self._catalogue.exchange(name, version, after)
            return
        leaving = replace(version, state=State.UNLOADING, reason="", served=None)
        self._catalogue.put(name, leaving)

        def remove() -> None:
            self._forget(served)
            self._catalogue.exchange(name, leaving, after)

        self._unloading.begin(served, remove)

    def end_trials(self) -> None:
        """Ends all trials, so that loads under way fail soon. Call it when the server stops."""
        self.closing = True
        self._loader.close()

    def close(self, timeout_s: float | None) -> None:
        """Finishes the queued work and releases every version.

        Args:
            timeout_s: time for each version; None means no limit.
        """
        for model in self._catalogue.models.values():
            for version in model.versions.values():
                if version.served:
                    close(version.served, timeout_s)
        self._unloading.close(timeout_s)

    def _remember(self, key: tuple[str, int], served: ServedVersion, *, accept: bool) -> None:
        """Records the digest of a version before it serves; closes the version if that fails."""
        bundle = served.bundle
        try:
            holds = self._served_digests.add(*key, bundle.sha256, accept=accept)
            _refuse_changed(bundle, holds)  # another worker may have recorded another digest first
        except (OSError, BundleRefused):
            close(served)
            raise

    def _refuse(self, name: str, version: Version, error: Exception) -> None:
        if self.closing:  # ended trials are no failures
            with self._labels:
                self._opening.discard((name, version.number))
            return
        why = explain_failure(error)
        if version.served is None:
            version = replace(version, state=State.FAILED)
            with self._labels:
                self._opening.discard((name, version.number))
                self._metrics.forget_version(name, version.number)
        else:
            with self._labels:
                self._opening.discard((name, version.number))
            why = f"it still serves, but the files that replaced it are refused: {why}"
        if is_passing(error):
            pause_s = min(_FIRST_RETRY_S * 2**version.attempts, _LAST_RETRY_S)
            why += f"; next attempt in {pause_s:.0f} s"
            retry_at = time.monotonic() + pause_s
            version = replace(version, attempts=version.attempts + 1, retry_at=retry_at)
        else:
            version = replace(version, attempts=0, retry_at=None)
        self._catalogue.put(name, replace(version, reason=why))
        self._metrics.model_load_failures.labels(name).inc()
        _log.error("version refused: %s", error, exc_info=not isinstance(error, ImagemintError))

    def _log_loaded(self, name: str, served: ServedVersion, took_s: float) -> None:
        bundle, backend = served.bundle, served.backend
        labels = (name, str(served.version))
        self._metrics.model_load_duration.labels(*labels).set(took_s)
        variant = backend.variant
        self._metrics.model_info.labels(
            *labels, bundle.sha256, variant.precision, backend.provider, variant.name
        ).set(1)
        _log.info(
            "serving %s@%d (%s, %s) on %s, loaded in %.2f s",
            *(name, served.version, variant.name, bundle.sha256[:12]),
            *(backend.description, took_s),
        )

    def _forget(self, served: ServedVersion) -> None:
        """Removes the metrics of a version unless another version of that number uses them."""
        name, number = served.spec.name, served.version
        with self._labels:
            now = self._catalogue.get_version(name, number)
            if now is not None and now.served is not None:
                if now.served.bundle.sha256 != served.bundle.sha256:
                    self._metrics.forget_bundle(name, number, served.bundle.sha256)
            elif (name, number) not in self._opening:
                self._metrics.forget_version(name, number)


def _clear_failure(version: Version) -> Version:
    """Returns the version without a reason, attempts or a retry time."""
    return replace(version, reason="", attempts=0, retry_at=None)


def _refuse_changed(bundle: Bundle, known: str | None) -> None:
    """Checks that a bundle has the digest that was served under its number before.

    Raises:
        BundleRefused: it has another one.
    """
    if known not in (None, bundle.sha256):
        raise BundleRefused(
            bundle.directory,
            f"version {bundle.version} is immutable, and its content differs from what was served"
            f" before (SHA-256 {known:.12}…, now {bundle.sha256[:12]}…); export it under a new"
            " version number",
        )
