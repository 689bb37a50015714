"""The life of one version: loading, serving, unloading, and what is counted and said of it."""

import logging
import threading
import time
from dataclasses import replace

from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.errors import BundleRefused, ImagemintError
from imagemint.engine.failure_causes import is_passing
from imagemint.server.repository.loading import Loader, close, reason_of
from imagemint.server.repository.served_digests import ServedBytes
from imagemint.server.repository.snapshot import Catalogue
from imagemint.server.repository.unloading import Unloading
from imagemint.server.repository.versions import ServedVersion, State, Version
from imagemint.server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

# Pauses before loading is tried again, where the cause may pass; doubled each time.
_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 600.0


class _TakesTrial(Exception):  # noqa: N818 - it names what happened
    """A bundle must be tried before it is loaded."""


class Lifecycle:
    """Leads versions through their states; those of one model by one thread at a time.

    A number keeps its meaning: bytes other than those that were served under it, however long ago,
    are refused for as long as the server lives, unless they are expressly accepted.

    Args:
        catalogue: where versions are listed.
        loader: opens them.
        metrics: where to count.
        served_bytes: what was served so far.
        unload_grace_s: time that calls inside an unloaded version have to finish.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        loader: Loader,
        metrics: Metrics,
        served_bytes: ServedBytes,
        unload_grace_s: float,
    ) -> None:
        self.closing = False
        """Set when the end has come: what is being loaded is not entered any more."""
        self._catalogue = catalogue
        self._loader = loader
        self._metrics = metrics
        self._unloading = Unloading(unload_grace_s)
        self._served_bytes = served_bytes
        # Two of one number may live at once, one of them leaving, and share their labels.
        self._labels = threading.Lock()
        self._opening: set[tuple[str, int]] = set()

    def load(
        self, name: str, version: Version, *, accept: bool, may_try: bool = True
    ) -> bool | None:
        """Loads a version, or checks what has taken the place of one that serves.

        Args:
            name: the model.
            version: which, as it is listed, with the present signature of its files.
            accept: take other bytes than those that were served under its number before.
            may_try: whether there is time for a trial.

        Returns:
            Whether a version of that number serves now; None if that takes a trial first.
        """
        key, before = (name, version.number), version.served
        if before is None:
            self._catalogue.put(name, replace(version, state=State.LOADING, reason=""))
        began = time.perf_counter()
        try:
            served = self._opened(key, version, accept=accept, may_try=may_try)
            if served is before:
                self._catalogue.put(name, _settled(version))
                return True
            if self.closing:
                close(served)
                return False
            self._remember(key, served, accept=accept)
        except _TakesTrial:
            return None
        except Exception as error:  # noqa: BLE001 - whatever a foreign file does, the rest serves on
            self._refuse(name, version, error)
            return before is not None
        self._catalogue.put(name, replace(_settled(version), state=State.READY, served=served))
        with self._labels:
            self._opening.discard(key)
        self._tell_of(name, served, time.perf_counter() - began)
        if before is not None:
            self._unloading.begin(before, lambda: self._forget(before))
        return True

    def _opened(
        self, key: tuple[str, int], version: Version, *, accept: bool, may_try: bool
    ) -> ServedVersion:
        """Returns what is to serve under a number: what does already, if its bytes are the same.

        Raises:
            _TakesTrial: a trial comes first, and there is no time for it.
            Exception: whatever a foreign file does.
        """
        loader, before, tried = self._loader, version.served, None
        if loader.needs_trial(version.directory):
            tried = self._tried(version, may_try=may_try)
        bundle = loader.read(version.directory)
        if not accept:
            _refuse_changed(bundle, self._served_bytes.known(*key))
        if before is not None and before.bundle.sha256 == bundle.sha256:
            return before
        if tried is None and loader.needs_trial(bundle):
            tried = self._tried(version, may_try=may_try)
        with self._labels:
            self._opening.add(key)
        return loader.open(bundle, tried)

    def _tried(self, version: Version, *, may_try: bool) -> tuple[str, Findings]:
        if not may_try:
            raise _TakesTrial
        return self._loader.try_out(version.directory)

    def unload(self, name: str, version: Version, after: Version | None) -> None:
        """Takes a version out of service; calls inside it finish.

        Args:
            name: the model.
            version: which, as it is listed.
            after: how it stays listed; None for not at all.
        """
        if version.state is State.UNLOADING or version == after:
            return
        served = version.served
        if served is None:
            self._catalogue.exchange(name, version, after)
            return
        leaving = replace(version, state=State.UNLOADING, reason="", served=None)
        self._catalogue.put(name, leaving)

        def gone() -> None:
            self._forget(served)
            self._catalogue.exchange(name, leaving, after)

        self._unloading.begin(served, gone)

    def end_trials(self) -> None:
        """Has whatever is being loaded fail soon, because the end has come."""
        self.closing = True
        self._loader.close()

    def close(self, timeout_s: float | None) -> None:
        """Finishes what is queued and releases every version.

        Args:
            timeout_s: time for each; None waits as long as it takes.
        """
        for model in self._catalogue.models.values():
            for version in model.versions.values():
                if version.served:
                    close(version.served, timeout_s)
        self._unloading.close(timeout_s)

    def _remember(self, key: tuple[str, int], served: ServedVersion, *, accept: bool) -> None:
        """Remembers what is about to serve; what cannot be remembered must not serve."""
        bundle = served.bundle
        try:
            holds = self._served_bytes.add(*key, bundle.sha256, accept=accept)
            _refuse_changed(bundle, holds)  # another worker may have come first, with other bytes
        except (OSError, BundleRefused):
            close(served)
            raise

    def _refuse(self, name: str, version: Version, error: Exception) -> None:
        if self.closing:  # trials were ended, and nobody asks any more
            with self._labels:
                self._opening.discard((name, version.number))
            return
        why = reason_of(error)
        if version.served is None:
            version = replace(version, state=State.FAILED)
            with self._labels:
                self._opening.discard((name, version.number))
                self._metrics.forget_version(name, version.number)
        else:
            with self._labels:
                self._opening.discard((name, version.number))
            why = f"it serves on, but what has taken its place on disk is refused: {why}"
        if is_passing(error):
            pause_s = min(_FIRST_RETRY_S * 2**version.attempts, _LAST_RETRY_S)
            why += f"; tried again in {pause_s:.0f} s"
            retry_at = time.monotonic() + pause_s
            version = replace(version, attempts=version.attempts + 1, retry_at=retry_at)
        else:
            version = replace(version, attempts=0, retry_at=None)
        self._catalogue.put(name, replace(version, reason=why))
        self._metrics.model_load_failures.labels(name).inc()
        _log.error("version refused: %s", error, exc_info=not isinstance(error, ImagemintError))

    def _tell_of(self, name: str, served: ServedVersion, took_s: float) -> None:
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
        """Removes the labels of a version, unless another of its number has taken them over."""
        name, number = served.spec.name, served.version
        with self._labels:
            now = self._catalogue.version(name, number)
            if now is not None and now.served is not None:
                if now.served.bundle.sha256 != served.bundle.sha256:
                    self._metrics.forget_bundle(name, number, served.bundle.sha256)
            elif (name, number) not in self._opening:
                self._metrics.forget_version(name, number)


def _settled(version: Version) -> Version:
    """A version of which nothing is wrong."""
    return replace(version, reason="", attempts=0, retry_at=None)


def _refuse_changed(bundle: Bundle, known: str | None) -> None:
    """Raises if other bytes than these are known under the version's number."""
    if known not in (None, bundle.sha256):
        raise BundleRefused(
            bundle.directory,
            f"not the bytes that were served as version {bundle.version} before (SHA-256"
            f" {known:.12}…, now {bundle.sha256[:12]}…): a version is immutable, give them another"
            " number",
        )
