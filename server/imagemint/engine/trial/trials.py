"""Loads and probes a bundle in a separate process, which can be killed.

Neither the creation of a session nor a running operator can be interrupted, and a crash of native
code ends its process. Therefore a bundle that is not estimated as cheap is first loaded and probed
in a child process with limits of time and memory. The server reuses the findings of that probe.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from imagemint.engine.bundle import Bundle
from imagemint.engine.bundle.critic import CriticGraph
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.bundle.variants import Variant
from imagemint.engine.errors import BundleRefused
from imagemint.engine.memory import measure_available_bytes

PLAIN_BYTES = 16 * 2**20
"""Size above which a model file is not even parsed outside of a trial."""
_PLAIN_NODES = 5_000
_PLAIN_CONSTANT_BYTES = 64 * 2**20
_PLAIN_CONSTANT_FLOPS = 10**9
_PLAIN_ROW_BYTES = 16 * 2**20
_PLAIN_ROW_FLOPS = 5 * 10**7
# Share of the available memory; several workers can try the same bundle at the same time.
_MEMORY_SHARE = 0.5
ERROR_BYTES = 2**16
"""Size of what a trial process may write to stderr."""
_SHOWN = 300  # characters of an error
# Without -P, a module in the current directory could shadow ours.
_CHILD = (sys.executable, "-P", "-m", "imagemint.engine.trial.trial_process")


def is_plain(bundle: Bundle) -> bool:
    """Returns whether loading a bundle is estimated as cheap, so that it needs no trial."""
    critic = () if bundle.critic is None else (bundle.critic,)
    return all(map(_is_plain, (*bundle.variants, *critic)))


def _is_plain(graph: Variant | CriticGraph) -> bool:
    estimate = graph.estimate
    return (
        estimate.is_complete
        and graph.size <= PLAIN_BYTES
        and estimate.nodes <= _PLAIN_NODES
        and estimate.constant_bytes <= _PLAIN_CONSTANT_BYTES
        and estimate.constant_flops <= _PLAIN_CONSTANT_FLOPS
        and estimate.row_bytes <= _PLAIN_ROW_BYTES
        and estimate.row_flops <= _PLAIN_ROW_FLOPS
    )


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """Options of a trial; see `read_bundle` and `OnnxBackend` for the others."""

    timeout_s: float
    """Time from the start of the process to its result."""
    max_bytes: int
    max_image_memory_bytes: int
    alone_threads: int = 1
    intra_op_threads: int = 1


class Trials:
    """Tries each bundle in its own process; thread-safe."""

    def __init__(self, options: TrialOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(
        self, directory: Path, variant: str, trusted_keys: str | None = None
    ) -> tuple[str, Findings]:
        """Returns the SHA-256 of model.onnx and the findings about the bundle on this machine.

        Args:
            directory: the directory of the bundle.
            variant: the graph to run; see `OnnxBackend`.
            trusted_keys: PEM text of public keys, of which one must have signed the bundle. None:
                no signature is required.

        Raises:
            BundleRefused: the bundle cannot be loaded, takes too long or too much memory, or
                crashes the process. `passing` says whether a retry is useful.
        """
        available = measure_available_bytes()
        arguments = asdict(self._options) | {
            "directory": str(directory),
            "variant": variant,
            "trusted_keys": trusted_keys,
            "memory_bytes": None if available is None else int(available * _MEMORY_SHARE),
        }
        with _open_errors() as errors:
            process = self._start(directory, json.dumps(arguments), errors)
            # The child exits when its stdin closes, so the pipe stays open while the child runs.
            lifeline, process.stdin = process.stdin, None
            try:
                output, _ = process.communicate(timeout=self._options.timeout_s)
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
            return _read_verdict(directory, process.returncode, output, errors)

    def close(self) -> None:
        """Kills all trials and refuses new ones."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _start(
        self, directory: Path, arguments: str, errors: IO[bytes] | None = None
    ) -> "subprocess.Popen[str]":
        with self._lock:
            if self._closed:
                raise BundleRefused(directory, "the server is shutting down", passing=True)
            try:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    [*_CHILD, arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors or subprocess.DEVNULL,
                    text=True,
                )
            except OSError as error:
                why = f"the process that tries it cannot be started: {error.strerror}"
                raise BundleRefused(directory, why, passing=True) from error
            self._running.add(process)
            return process


def _open_errors() -> IO[bytes]:
    """Opens a file for the errors of a trial process, which limits its size itself.

    It is in memory where there are such files, because a disk can be full or read-only.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("imagemint-trial-errors"), "w+b")
    return tempfile.TemporaryFile()


def _read_verdict(
    directory: Path, status: int, output: str, errors: IO[bytes]
) -> tuple[str, Findings]:
    if not output:
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        why = f"the process that tried to load it ended: {cause}"
        if status > 0 and (line := _read_last_line(errors)):
            why += f" ({line})"
        # SIGKILL can come from the out-of-memory killer. An exit status is of Python, which cannot
        # import a module, for example: the process reports what is wrong with a bundle. The bundle
        # causes any other end.
        raise BundleRefused(directory, why, passing=status > 0 or status == -signal.SIGKILL)
    found: dict[str, Any] = json.loads(output)
    if "refused" in found:
        raise BundleRefused(directory, found["refused"], passing=found["passing"])
    return found["sha256"], Findings.of_json(found["findings"])


def _read_last_line(file: IO[bytes]) -> str:
    """Returns the last line of a file, which is the error in a traceback, shortened."""
    file.seek(0)
    lines = file.read(ERROR_BYTES).decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last if len(last) <= _SHOWN else f"{last[:_SHOWN]}…"
