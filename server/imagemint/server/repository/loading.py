"""From a version directory to a version that answers, and back to memory that is free."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from imagemint.engine.backend import Backend
from imagemint.engine.bundle import Bundle, read_bundle
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.bundle.variants import REFERENCE
from imagemint.engine.errors import BundleRefused, ImagemintError
from imagemint.engine.sampling import latents
from imagemint.engine.spec import ModelSpec, TruncationKind
from imagemint.engine.trial.trials import PLAIN_BYTES, Trials, is_plain
from imagemint.server.batching import Batcher
from imagemint.server.repository.versions import ServedVersion

_log = logging.getLogger(__name__)

# What an image takes in an answer besides its pixels, at most: its serial, once more in the picture
# with what else a picture says of itself, and what PNG adds to pixels that do not compress.
_BYTES_AROUND_IMAGE = 1536


class Loader:
    """Opens versions.

    Args:
        open_backend: what computes a bundle.
        open_batcher: queue and instances in front of a backend.
        max_bundle_bytes: larger model files are refused.
        max_images: images in one answer at most.
        max_response_bytes: raw bytes in one answer at most.
        trials: tries bundles in processes of their own, unless loading them is known to be cheap;
            None for no trials.
        variant_of: the variant that is served of a model, by its name.
    """

    def __init__(
        self,
        open_backend: Callable[[Bundle], Backend],
        open_batcher: Callable[[Bundle, Backend], Batcher],
        *,
        max_bundle_bytes: int,
        max_images: int,
        max_response_bytes: int,
        trials: Trials | None = None,
        variant_of: Callable[[str], str] = lambda _: REFERENCE,
    ) -> None:
        self._trials = trials
        self._variant_of = variant_of
        self._open_backend = open_backend
        self._open_batcher = open_batcher
        self._max_bundle_bytes = max_bundle_bytes
        self._max_images = max_images
        self._max_response_bytes = max_response_bytes

    def read(self, directory: Path) -> Bundle:
        """Returns a bundle that passed every check.

        Raises:
            BundleRefused: it did not.
        """
        return read_bundle(directory, max_bytes=self._max_bundle_bytes)

    def needs_trial(self, found: Path | Bundle) -> bool:
        """Whether a bundle must be tried before it is opened, or, of a directory, even read."""
        if self._trials is None:
            return False
        if isinstance(found, Bundle):
            return not is_plain(found)
        return _largest_file(found) > PLAIN_BYTES

    def try_out(self, directory: Path) -> tuple[str, Findings]:
        """Loads and probes a bundle in another process; see `Trials.run`.

        Raises:
            BundleRefused: it failed there.
        """
        assert self._trials is not None  # noqa: S101 - for the type checker; needs_trial said so
        return self._trials.run(directory, self._variant_of(directory.parent.name))

    def close(self) -> None:
        """Ends every trial."""
        if self._trials is not None:
            self._trials.close()

    def open(self, bundle: Bundle, tried: tuple[str, Findings] | None = None) -> ServedVersion:
        """Returns the bundle as a version that is warm and ready; leaves nothing if it fails.

        Args:
            bundle: which.
            tried: what its trial said; None without one.

        Raises:
            Exception: whatever a foreign file does to the runtime.
        """
        if tried is not None:
            sha256, findings = tried
            if sha256 != bundle.sha256:
                why = "it changed while it was being loaded"
                raise BundleRefused(bundle.directory, why, passing=True)
            bundle = replace(bundle, findings=findings)
        backend = self._open_backend(bundle)
        try:
            _warm_up(bundle.spec, backend)
            batcher = self._open_batcher(bundle, backend)
        except Exception:
            backend.close()
            raise
        image_bytes = bundle.spec.image_bytes + _BYTES_AROUND_IMAGE
        max_images = max(1, min(self._max_images, self._max_response_bytes // image_bytes))
        return ServedVersion(bundle.version, bundle, backend, batcher, max_images)


def close(served: ServedVersion, timeout_s: float | None = None) -> None:
    """Finishes what is queued and gives the memory back.

    Args:
        served: what nobody may ask any more.
        timeout_s: time to finish; None waits as long as it takes.
    """
    if not served.batcher.close(timeout_s):
        _log.error("%s@%d hangs; it is left behind", served.spec.name, served.version)
    served.backend.close()


def reason_of(error: Exception) -> str:
    """What callers are told of a version that failed: no paths, and nothing of internals."""
    if isinstance(error, BundleRefused):
        return error.why
    return (
        error.message if isinstance(error, ImagemintError) else "it cannot be loaded; see the log"
    )


def _largest_file(directory: Path) -> int:
    try:
        return max((path.stat().st_size for path in directory.glob("*.onnx")), default=0)
    except OSError:  # reading it says what is wrong
        return 0


def _warm_up(spec: ModelSpec, backend: Backend) -> None:
    """Runs two images, so that the first caller does not pay for what the runtime puts off."""
    by_psi = spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI
    backend.run(
        latents(0, 0, 2, spec.z_dim, distribution=spec.distribution),
        np.zeros(2, np.int64) if spec.conditional else None,
        np.ones(2, np.float32) if by_psi else None,
    )
