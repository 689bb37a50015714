"""The backend on ONNX Runtime: the one module that imports it.

**One session, several threads.** `Run` is thread-safe and releases the interpreter's lock, and with
one intra-op thread it computes on the thread that called. Create sessions after any fork.
Two threads on one session deliver as many images as two sessions with a thread each, and hold the
weights once; see TWO_SESSIONS below.

**Batch invariance.** A row's pixels must not depend on its batch. On the CPU provider this holds by
construction wherever the weights are constants: ONNX Runtime packs them when the session is
created, and the packed GEMM accumulates each row over K in one order, whatever M is. Its separate
kernels for M = 1 (GEMV) exist only for unpacked weights, and on processors where a vendor library
takes over. Measured with ONNX Runtime 1.31.1 on AVX-512 (embedding, Gemm, two ConvTranspose, Conv,
tanh, at 64, 128 and 256 channels): for all batch sizes 1 to 70 even the floats before rounding are
bit-identical. On CUDA, cuDNN and cuBLAS pick their algorithm by shape, so nothing is certain.
Therefore every backend probes its bundle when it is loaded, and runs batches in the cheapest way
under which the probe found no difference: as they come, never alone, or always in one fixed size.
"""

import enum
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from imagemint.engine.bundle import Bundle
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.sampling import drawn_classes, latents
from imagemint.engine.spec import ModelSpec, TruncationKind

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

FIXED_BATCH = 64
"""Rows of every run where no smaller measure makes pixels independent of the batch."""

_PROBE_ROWS = 64
_PROBE_SEED = 0
# Lone rows are the likeliest to differ; then the tails of vector kernels, 4, 8 and 16 rows high.
_PROBE_ALONE = 12
_PROBE_SIZES = (2, 3, 5, 8, 13, 17, 31, 47)


class Batching(enum.Enum):
    """How batches must be run so that pixels do not depend on them."""

    AS_THEY_COME = "as they come"
    NEVER_ALONE = "never alone"
    FIXED = f"{FIXED_BATCH} rows at a time"


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
        self._batching = Batching.AS_THEY_COME
        self._settle(bundle)
        _log.info(
            "model %s@%d runs on %s (%s), batches %s",
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
        rows = len(z)
        if rows == 0:
            spec = self._spec
            return np.empty((0, spec.height, spec.width, spec.channels), dtype=np.uint8)
        if self._batching is Batching.FIXED:
            starts = range(0, rows, FIXED_BATCH)
            parts = [_rows(feed, start, start + FIXED_BATCH) for start in starts]
            return np.concatenate([self._padded(part, FIXED_BATCH) for part in parts])
        if rows == 1 and self._batching is Batching.NEVER_ALONE:
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
    ) -> dict[str, npt.NDArray[Any]]:
        """The graph's inputs by name, checked: a graph takes label -1 for the last class."""
        spec = self._spec
        if z.dtype != np.float32 or z.ndim != 2 or z.shape[1] != spec.z_dim:  # noqa: PLR2004 - axes
            raise ValueError(f"z must be float32 [N, {spec.z_dim}], not {z.dtype} {z.shape}")
        feed: dict[str, npt.NDArray[Any]] = {"z": z}
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

    def _padded(self, feed: dict[str, npt.NDArray[Any]], rows: int) -> npt.NDArray[np.uint8]:
        """The images of a batch that is run with its first row repeated up to `rows`."""
        count = len(feed["z"])
        if count < rows:
            feed = {
                name: np.concatenate([value, np.repeat(value[:1], rows - count, axis=0)])
                for name, value in feed.items()
            }
        return self._compute(feed)[:count]

    def _compute(self, feed: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
        session = self._session
        if session is None:
            raise BackendFailed("the model was closed")
        try:
            (image,) = session.run(["image"], feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise BackendFailed("the model failed to run") from error
        images: npt.NDArray[np.uint8] = image
        return images

    def _settle(self, bundle: Bundle) -> None:
        """Runs a probe, which also warms up, and chooses how batches are run from now on."""
        spec = bundle.spec
        try:
            feed = _probe_feed(spec, takes_psi=self._takes_psi)
            whole = self._compute(feed)
        except BackendFailed as error:
            why = f"ONNX Runtime cannot run it: {_first_line(error.__cause__)}"
            raise BundleRefused(bundle.directory, why) from error
        expected = (_PROBE_ROWS, spec.height, spec.width, spec.channels)
        if whole.dtype != np.uint8 or whole.shape != expected:
            why = f"its images are {whole.dtype} {whole.shape}, not uint8 {expected}"
            raise BundleRefused(bundle.directory, why)
        self._batching = self._needed(feed, whole)
        if self._batching is not Batching.AS_THEY_COME:
            _log.warning(
                "model %s@%d: pixels depend on the batch on %s; batches run %s",
                spec.name,
                bundle.version,
                self._provider,
                self._batching.value,
            )

    def _needed(self, feed: dict[str, npt.NDArray[Any]], whole: npt.NDArray[np.uint8]) -> Batching:
        """The cheapest batching under which the rows of the probe equal those of the whole."""

        def same(start: int, stop: int) -> bool:
            return np.array_equal(self._compute(_rows(feed, start, stop)), whole[start:stop])

        # Ranges that start in the middle also move rows to other places within a batch.
        if not all(same(size // 2, size // 2 + size) for size in _PROBE_SIZES):
            return Batching.FIXED
        if not all(same(row, row + 1) for row in range(_PROBE_ALONE)):
            return Batching.NEVER_ALONE
        return Batching.AS_THEY_COME


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


def _probe_feed(spec: ModelSpec, *, takes_psi: bool) -> dict[str, npt.NDArray[Any]]:
    z = latents(_PROBE_SEED, 0, _PROBE_ROWS, spec.z_dim, distribution=spec.distribution)
    feed: dict[str, npt.NDArray[Any]] = {"z": z}
    if spec.conditional:
        classes = drawn_classes(_PROBE_SEED, 0, _PROBE_ROWS, spec.num_classes)
        feed["class_id"] = classes[:, np.newaxis]
    if takes_psi and spec.truncation is not None:
        low, high = spec.truncation.minimum, spec.truncation.maximum
        feed["truncation"] = np.linspace(low, high, _PROBE_ROWS, dtype=np.float32)[:, np.newaxis]
    return feed


def _column(
    name: str, values: npt.NDArray[Any], dtype: np.dtype[Any], rows: int
) -> npt.NDArray[Any]:
    if values.dtype != dtype or values.shape != (rows,):
        raise ValueError(f"{name} must be {dtype} [{rows}], not {values.dtype} {values.shape}")
    return values[:, np.newaxis]


def _rows(feed: dict[str, npt.NDArray[Any]], start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
    return {name: value[start:stop] for name, value in feed.items()}


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
