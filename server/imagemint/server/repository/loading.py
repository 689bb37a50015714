"""Opens a version directory as a version that serves, and releases it again."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imagemint.engine.backend import Backend
from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import Bundle, read_bundle
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.bundle.variants import REFERENCE
from imagemint.engine.errors import BundleRefused, ImagemintError
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.engine.spec import ModelSpec
from imagemint.engine.trial.trials import PLAIN_BYTES, is_plain
from imagemint.server.batching import Batcher
from imagemint.server.repository.shared_trials import TrialRunner
from imagemint.server.repository.source import Source
from imagemint.server.repository.versions import ServedVersion

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.server.repository.key_file import KeyFile

_log = logging.getLogger(__name__)

# Maximum bytes that an image adds to a response besides its pixels: its serial, the metadata in the
# picture (with the serial again), and the overhead of PNG for pixels that do not compress.
_BYTES_AROUND_IMAGE = 1536


class Loader:
    """Opens versions.

    Args:
        source: brings bundles to the local disk.
        open_backend: returns the backend of a bundle.
        open_batcher: returns the batcher in front of a backend.
        max_bundle_bytes: maximum size of a model file.
        max_images: maximum number of images in one response.
        max_response_bytes: maximum raw bytes of images in one response.
        trials: loads bundles in separate processes if their cost is not known to be low; None for
            no trials.
        variant_of: returns the variant to serve, by model name.
        keys: keys of which one must have signed a bundle; None requires no signature.
    """

    def __init__(
        self,
        source: Source,
        open_backend: Callable[[Bundle], Backend],
        open_batcher: Callable[[Bundle, Backend], Batcher],
        *,
        max_bundle_bytes: int,
        max_images: int,
        max_response_bytes: int,
        trials: TrialRunner | None = None,
        variant_of: Callable[[str], str] = lambda _: REFERENCE,
        keys: "KeyFile | None" = None,
    ) -> None:
        self._keys = keys
        self._source = source
        self._trials = trials
        self._variant_of = variant_of
        self._open_backend = open_backend
        self._open_batcher = open_batcher
        self._max_bundle_bytes = max_bundle_bytes
        self._max_images = max_images
        self._max_response_bytes = max_response_bytes

    def is_present(self, directory: Path) -> bool:
        """Returns whether a bundle is on the local disk."""
        return self._source.is_present(directory)

    def fetch(self, directory: Path) -> None:
        """Brings a bundle to the local disk.

        Raises:
            BundleRefused: the bundle could not be fetched.
        """
        self._source.fetch(directory)

    def repair(self, directory: Path) -> bool:
        """Drops the local copy of a refused bundle if it is damaged, and returns whether it was."""
        return self._source.repair(directory)

    def read(self, directory: Path) -> Bundle:
        """Reads and checks a bundle.

        Raises:
            BundleRefused: the bundle fails a check.
        """
        trusted = self._keys.read(directory) if self._keys else None
        return read_bundle(directory, max_bytes=self._max_bundle_bytes, trusted=trusted)

    def needs_trial(self, found: Path | Bundle) -> bool:
        """Returns whether a bundle, or a directory that is not read yet, needs a trial first."""
        if self._trials is None:
            return False
        if isinstance(found, Bundle):
            return not is_plain(found)
        return _measure_largest_file(found) > PLAIN_BYTES

    def try_out(self, directory: Path) -> tuple[str, Findings]:
        """Loads and probes a bundle in a trial process; see `Trials.run`.

        Raises:
            BundleRefused: the trial failed.
        """
        assert self._trials is not None  # noqa: S101 - for the type checker; needs_trial returned true
        pem = self._keys.read(directory).to_pem() if self._keys else None
        return self._trials.run(directory, self._variant_of(directory.parent.name), pem)

    def close(self) -> None:
        """Ends all trials."""
        if self._trials is not None:
            self._trials.close()

    def open(
        self, bundle: Bundle, trial_result: tuple[str, Findings] | None = None
    ) -> ServedVersion:
        """Opens and warms up a bundle, and returns it as a ready version. Closes it on failure.

        Args:
            bundle: the bundle.
            trial_result: the result of its trial; None without a trial.

        Raises:
            Exception: the runtime cannot load the bundle.
        """
        if trial_result is not None:
            sha256, findings = trial_result
            if sha256 != bundle.sha256:
                why = "it changed while it was being loaded"
                raise BundleRefused(bundle.directory, why, passing=True)
            bundle = replace(bundle, findings=findings)
        backend = self._open_backend(bundle)
        try:
            _warm_up(bundle.spec, backend)
            critic = None if bundle.critic is None else OnnxCritic(bundle, bundle.critic)
            batcher = self._open_batcher(bundle, backend)
        except Exception:
            backend.close()
            raise
        image_bytes = bundle.spec.image_bytes + _BYTES_AROUND_IMAGE
        max_images = max(1, min(self._max_images, self._max_response_bytes // image_bytes))
        return ServedVersion(
            bundle.version, bundle.without_contents(), backend, batcher, max_images, critic
        )


def close(served: ServedVersion, timeout_s: float | None = None) -> None:
    """Finishes the queued work of a version and releases its memory.

    Args:
        served: a version that receives no new calls.
        timeout_s: time to finish; None means no limit.
    """
    if not served.batcher.close(timeout_s):
        _log.error("%s@%d hangs and is not released", served.spec.name, served.version)
    served.backend.close()
    if served.critic is not None:
        served.critic.close()


def explain_failure(error: Exception) -> str:
    """Returns the reason of a failed load for callers, without paths and internals."""
    if isinstance(error, BundleRefused):
        return error.why
    return (
        error.message if isinstance(error, ImagemintError) else "it cannot be loaded; see the log"
    )


def _measure_largest_file(directory: Path) -> int:
    try:
        return max((path.stat().st_size for path in directory.glob("*.onnx")), default=0)
    except OSError:  # reading the bundle reports the cause
        return 0


def _warm_up(spec: ModelSpec, backend: Backend) -> None:
    """Computes two images, so that lazy initialization of the runtime delays no caller."""
    backend.run(draw_batch(spec, 0, 0, 2))
