"""Trying a bundle in a process of its own, which can be killed.

Neither a session that is being made nor an operator that is running can be interrupted, and a fault
in native code takes its process along. So a bundle of which the estimate cannot say that it is
cheap is first loaded and probed in a child process, under limits of time and memory. What the probe
finds out there need not be found out again.
"""

import json
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.bundle.variants import Variant
from imagemint.engine.errors import BundleRefused
from imagemint.engine.memory import available_bytes

PLAIN_BYTES = 16 * 2**20
"""Size of a model file above which it is not even parsed outside a trial."""
_PLAIN_NODES = 5_000
_PLAIN_CONSTANT_BYTES = 64 * 2**20
_PLAIN_CONSTANT_FLOPS = 10**9
_PLAIN_ROW_BYTES = 16 * 2**20
_PLAIN_ROW_FLOPS = 5 * 10**7
# Of the memory that is available; several workers may try the same bundle at the same time.
_MEMORY_SHARE = 0.5
# Without -P a module in the current directory would go before ours.
_CHILD = (sys.executable, "-P", "-m", "imagemint.engine.trial.trial_process")


def is_plain(bundle: Bundle) -> bool:
    """Whether loading a bundle is known to be cheap, so that it need not be tried first."""
    return all(map(_is_plain, bundle.variants))


def _is_plain(variant: Variant) -> bool:
    estimate = variant.estimate
    return (
        estimate.is_complete
        and variant.size <= PLAIN_BYTES
        and estimate.nodes <= _PLAIN_NODES
        and estimate.constant_bytes <= _PLAIN_CONSTANT_BYTES
        and estimate.constant_flops <= _PLAIN_CONSTANT_FLOPS
        and estimate.row_bytes <= _PLAIN_ROW_BYTES
        and estimate.row_flops <= _PLAIN_ROW_FLOPS
    )


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What a trial is told; the meanings are those of `read_bundle` and `OnnxBackend`."""

    timeout_s: float
    """Time from the start of the process to its verdict."""
    max_bytes: int
    max_image_memory_bytes: int
    alone_threads: int = 1
    intra_op_threads: int = 1


class Trials:
    """Tries bundles, each in a process; thread-safe."""

    def __init__(self, options: TrialOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, directory: Path, variant: str) -> tuple[str, Findings]:
        """The SHA-256 of model.onnx, and what was found out about the bundle on this machine.

        Args:
            directory: of the bundle.
            variant: which of its graphs, as `OnnxBackend` takes it.

        Raises:
            BundleRefused: it cannot be loaded, takes too long or too much memory, or ends the
                process; `passing` tells whether it is worth another try.
        """
        available = available_bytes()
        arguments = asdict(self._options) | {
            "directory": str(directory),
            "variant": variant,
            "memory_bytes": None if available is None else int(available * _MEMORY_SHARE),
        }
        process = self._start(directory, json.dumps(arguments))
        # Its end tells the child that this process is gone, so that it stays open until then.
        lifeline, process.stdin = process.stdin, None
        try:
            answer, _ = process.communicate(timeout=self._options.timeout_s)
        except subprocess.TimeoutExpired:
            why = f"it was not loaded within load_timeout_s ({self._options.timeout_s:g} s)"
            raise BundleRefused(directory, why, passing=True) from None
        finally:
            with self._lock:
                self._running.discard(process)
            process.kill()
            process.communicate()
            if lifeline is not None:
                lifeline.close()
        return _verdict(directory, process.returncode, answer)

    def close(self) -> None:
        """Kills every trial, now and to come."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _start(self, directory: Path, arguments: str) -> "subprocess.Popen[str]":
        with self._lock:
            if self._closed:
                raise BundleRefused(directory, "the server is leaving", passing=True)
            try:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    [*_CHILD, arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            except OSError as error:
                why = f"the process that tries it cannot be started: {error.strerror}"
                raise BundleRefused(directory, why, passing=True) from error
            self._running.add(process)
            return process


def _verdict(directory: Path, status: int, answer: str) -> tuple[str, Findings]:
    if not answer:
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        why = f"the process that tried to load it ended: {cause}"
        # Somebody who needed its memory may have killed it; anything else is the bundle's doing.
        raise BundleRefused(directory, why, passing=status == -signal.SIGKILL)
    found: dict[str, Any] = json.loads(answer)
    if "refused" in found:
        raise BundleRefused(directory, found["refused"], passing=found["passing"])
    return found["sha256"], Findings.of_json(found["findings"])
