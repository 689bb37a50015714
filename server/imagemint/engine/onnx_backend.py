"""The backend on ONNX Runtime: the one module that imports it.

**One session, several threads.** `Run` is thread-safe and releases the interpreter's lock, and with
one intra-op thread it computes on the thread that called. Two threads on one session delivered
0.98 to 1.06 times the images/s of two sessions with a thread each (median of 12 alternating rounds,
batches of 8 and 64, 128-channel digit generator, ONNX Runtime 1.31.1; on busy cores, hence only the
ratio), and hold the weights once: so one session is enough. Create it after any fork.

**Batch invariance.** A row's pixels must not depend on its batch. Measured with ONNX Runtime 1.31.1
on AVX-512, batches of 1 to 70, floats before rounding compared bit by bit: a generator (embedding,
Gemm, two ConvTranspose, Conv, tanh; 64, 128 and 256 channels) never differs; a Gemm or MatMul whose
weights are constants never differs, for those are packed when the session is made and the packed
kernel sums each row over K in one order whatever M is; with weights computed in the graph a batch
of one differs, and only that, for it runs as a GEMV. So neither the exporter nor the backend has to
pad a generator as it is exported here. Other processors have other kernels, and on CUDA cuDNN and
cuBLAS pick theirs by shape, so every backend probes its bundle when it is loaded (see _probe.py)
and runs batches in the cheapest way under which the probe found no difference up to 64 rows.
"""

import logging
import os
from typing import Any

import numpy as np
import numpy.typing as npt

# Since 1.29 ONNX Runtime reports to its maker from its import on, and keeps an id of the machine in
# the user's cache. A server does neither unless its operator asks for it; the API call to switch it
# off comes too late for the files.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from imagemint.engine._probe import (
    FIXED_BATCH,
    PROBE_ROWS,
    Batching,
    Feed,
    needed_batching,
    probe_feed,
    rows,
    showing_floats,
)
from imagemint.engine.bundle import Bundle
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.spec import TruncationKind

_log = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

_ERRORS_ONLY = 3
# Warnings speak of nodes assigned to the CPU and of missing drivers; both are checked here.
ort.set_default_logger_severity(_ERRORS_ONLY)

_CUDA_OPTIONS = {
    # EXHAUSTIVE, the default, searches half a second for every new shape; DEFAULT is far slower on
    # some convolutions.
    "cudnn_conv_algo_search": "HEURISTIC",
    # TF32 keeps 10 bits of the mantissa: pixels would leave the tolerance recorded in the bundle.
    "use_tf32": "0",
}


def available_devices() -> tuple[str, ...]:
    """Devices that the installed ONNX Runtime was built for, the best first; `cpu` is always one.

    Whether a GPU and its libraries are there is only known once a session was made.
    """
    return ("cuda", "cpu") if _CUDA in ort.get_available_providers() else ("cpu",)


class OnnxBackend:
    """A bundle in an ONNX Runtime session. Implements `Backend`.

    Args:
        bundle: what to run; its bytes are read again and must be those that were checked.
        device: `cpu`, `cuda`, or `auto`: CUDA where it works, the CPU otherwise.
        intra_op_threads: threads that share one run on the CPU, 1 or more. With 1 the calling
            thread does the work. CUDA always takes 1.

    Raises:
        BundleRefused: the runtime cannot load the model, or its images have another shape than the
            manifest says.
        BackendFailed: `cuda` was asked for and does not work.
        ValueError: no such device.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto", intra_op_threads: int = 1) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")
        self._spec = bundle.spec
        self._takes_psi = (
            bundle.spec.truncation is not None and bundle.spec.truncation.kind is TruncationKind.PSI
        )
        session, why = _session(bundle, device, intra_op_threads)
        self._session: ort.InferenceSession | None = session
        self._provider: str = session.get_providers()[0]
        self._threads = intra_op_threads
        self._batching = self._settle(bundle)
        level = logging.INFO if self._batching is Batching.AS_THEY_COME else logging.WARNING
        _log.log(
            level,
            "model %s@%d runs on %s (%s), in batches %s",
            bundle.spec.name,
            bundle.version,
            self.description,
            why,
            self._batching.value,
        )

    @property
    def provider(self) -> str:
        """Execution provider that does the work."""
        return self._provider

    @property
    def description(self) -> str:
        """Provider and version of ONNX Runtime, such as `CPUExecutionProvider 1.31.1`."""
        return f"{self._provider} {ort.__version__}"

    @property
    def batching(self) -> Batching:
        """What the probe found necessary."""
        return self._batching

    def run(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Images uint8 [N, height, width, channels]; see `Backend.run`."""
        feed = self._feed(z, class_id, truncation)
        count = len(z)
        if count == 0:
            spec = self._spec
            return np.empty((0, spec.height, spec.width, spec.channels), dtype=np.uint8)
        if self._batching is Batching.FIXED:
            starts = range(0, count, FIXED_BATCH)
            parts = [rows(feed, start, start + FIXED_BATCH) for start in starts]
            return np.concatenate([self._padded(part, FIXED_BATCH) for part in parts])
        if count == 1 and self._batching is Batching.NEVER_ALONE:
            return self._padded(feed, 2)
        return self._compute(feed)

    def close(self) -> None:
        """Releases the model; runs under way finish, later ones fail."""
        self._session = None

    def _feed(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None,
        truncation: npt.NDArray[np.float32] | None,
    ) -> Feed:
        """The graph's inputs by name, checked: a graph takes label -1 for the last class."""
        spec = self._spec
        if z.dtype != np.float32 or z.ndim != 2 or z.shape[1] != spec.z_dim:  # noqa: PLR2004 - axes
            raise ValueError(f"z must be float32 [N, {spec.z_dim}], not {z.dtype} {z.shape}")
        feed: Feed = {"z": z}
        if (class_id is not None) != spec.conditional:
            raise ValueError(f"class_id {'is missing' if spec.conditional else 'is not wanted'}")
        if class_id is not None:
            feed["class_id"] = _column("class_id", class_id, np.dtype(np.int64), len(z))
            if len(z) and not 0 <= class_id.min() <= class_id.max() < spec.num_classes:
                raise ValueError(f"class_id must be 0 to {spec.num_classes - 1}")
        if (truncation is not None) != self._takes_psi:
            raise ValueError(f"truncation {'is missing' if self._takes_psi else 'is not wanted'}")
        if truncation is not None:
            feed["truncation"] = _column("truncation", truncation, np.dtype(np.float32), len(z))
        return feed

    def _padded(self, feed: Feed, size: int) -> npt.NDArray[np.uint8]:
        """The images of a batch that is run with its first row repeated up to `size` rows."""
        count = len(feed["z"])
        if count < size:
            feed = {
                name: np.concatenate([value, np.repeat(value[:1], size - count, axis=0)])
                for name, value in feed.items()
            }
        return self._compute(feed)[:count]

    def _compute(self, feed: Feed) -> npt.NDArray[np.uint8]:
        session = self._session
        if session is None:
            raise BackendFailed("the model was closed")
        images: npt.NDArray[np.uint8] = _output(session, feed)
        return images

    def _settle(self, bundle: Bundle) -> Batching:
        """Runs the probe, which also warms up, and tells how batches must be run from now on."""
        spec = bundle.spec
        feed = probe_feed(spec)
        expected = (PROBE_ROWS, spec.height, spec.width, spec.channels)
        try:
            image = self._compute(feed)
            if image.dtype != np.uint8 or image.shape != expected:
                why = f"its images are {image.dtype} {image.shape}, not uint8 {expected}"
                raise BundleRefused(bundle.directory, why)
            floats = self._floats_session(bundle)
            return needed_batching(lambda part: _output(floats, part), feed)
        except BackendFailed as error:
            why = f"ONNX Runtime cannot run it: {_first_line(error.__cause__)}"
            raise BundleRefused(bundle.directory, why) from error

    def _floats_session(self, bundle: Bundle) -> ort.InferenceSession:
        """A second, passing session, whose output is the floats before they are rounded."""
        content = showing_floats(bundle.read_model())
        if self._provider == _CUDA:
            return _cuda_session(content)
        return _cpu_session(bundle, content, self._threads)


def _session(
    bundle: Bundle, device: str, intra_op_threads: int
) -> tuple[ort.InferenceSession, str]:
    """A session and the reason for its provider."""
    content = bundle.read_model()
    if device == "cpu":
        return _cpu_session(bundle, content, intra_op_threads), "asked for"
    try:
        session = _cuda_session(content)
    except BackendFailed as error:
        if device == "cuda":
            raise
        return _cpu_session(bundle, content, intra_op_threads), str(error)
    return session, "asked for" if device == "cuda" else "CUDA is there"


def _cpu_session(bundle: Bundle, content: bytes, threads: int) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(content, _options(threads), providers=[_CPU])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        why = f"ONNX Runtime {ort.__version__} cannot load it: {_first_line(error)}"
        raise BundleRefused(bundle.directory, why) from error


def _cuda_session(content: bytes) -> ort.InferenceSession:
    if _CUDA not in ort.get_available_providers():
        raise BackendFailed(f"CUDA does not work: ONNX Runtime {ort.__version__} is a CPU build")
    # Finds the CUDA libraries that pip installed; never raises, hence the check of the outcome.
    ort.preload_dlls()
    try:
        providers = [(_CUDA, _CUDA_OPTIONS), _CPU]
        session = ort.InferenceSession(content, _options(1), providers=providers)
    except Exception as error:  # no device, no driver, or a bundle at fault: the CPU will tell
        raise BackendFailed(f"CUDA does not work: {_first_line(error)}") from error
    if session.get_providers()[0] != _CUDA:
        raise BackendFailed("CUDA does not work: no device, or a library is missing")
    return session


def _output(session: ort.InferenceSession, feed: Feed) -> npt.NDArray[Any]:
    """The one output of a graph."""
    try:
        return np.asarray(session.run(None, feed)[0])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise BackendFailed("the model failed to run") from error


def _options(intra_op_threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Idle threads must not burn the cores that other batches run on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _column(
    name: str, values: npt.NDArray[Any], dtype: np.dtype[Any], rows: int
) -> npt.NDArray[Any]:
    if values.dtype != dtype or values.shape != (rows,):
        raise ValueError(f"{name} must be {dtype} [{rows}], not {values.dtype} {values.shape}")
    return values[:, np.newaxis]


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
