"""ONNX Runtime sessions and bound buffers; the only module that imports onnxruntime."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Since 1.29, ONNX Runtime sends telemetry from its import on, and stores a machine id in the user's
# cache. The server disables both unless the operator enables them. The API call to disable
# telemetry comes too late for the files.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from imagemint.engine.batch import Feed
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.onnx.capture_lock import Gate
from imagemint.engine.onnx.cuda import CudaRuntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
RUNTIME_VERSION: str = ort.__version__

_ERRORS_ONLY = 3
# Warnings concern nodes assigned to the CPU and missing drivers; this module checks both.
ort.set_default_logger_severity(_ERRORS_ONLY)

_CUDA_OPTIONS = {
    # EXHAUSTIVE, the default, takes half a second per new shape; DEFAULT is far slower for some
    # convolutions.
    "cudnn_conv_algo_search": "HEURISTIC",
    # TF32 has a 10-bit mantissa, so pixels would exceed the tolerance recorded in the bundle.
    "use_tf32": "0",
    # The largest batch runs first, so the arena does not need room to grow.
    "arena_extend_strategy": "kSameAsRequested",
}
# File, line and signature of the function that failed, before the reason.
_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? (?=[A-Z])")
_GRAPH_ID = "gpu_graph_id"
_gate = Gate()  # one per process, because a capture affects the whole process


class Session:
    """A graph whose first output is the image, ready to run.

    See `create_cpu_session` and `create_cuda_session`.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session: Any = session
        self.provider: str = session.get_providers()[0]
        """The active execution provider."""
        self._image: str = session.get_outputs()[0].name

    def run(self, feed: Feed, output: str | None = None) -> npt.NDArray[Any]:
        """Returns an output for a batch of any size; thread-safe.

        Args:
            feed: the inputs by name.
            output: name of the output. Default: the image.

        Raises:
            BackendFailed: the runtime failed; `__cause__` has its error.
        """
        return self.run_all(feed, [output or self._image])[0]

    def run_with(self, feed: Feed, output: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Returns the image and another output of one run; the image twice for None.

        Raises:
            BackendFailed: as `run`.
        """
        image, other = self.run_all(feed, [self._image, output or self._image])
        return image, other

    def run_all(self, feed: Feed, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Returns several outputs for a batch of any size; thread-safe.

        Raises:
            BackendFailed: the runtime failed; `__cause__` has its error.
        """
        try:
            with on_device(self.provider == CUDA):
                return [np.asarray(each) for each in self._session.run(list(outputs), feed)]
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise BackendFailed("the model failed to run") from error

    def close(self) -> None:
        """Releases the session; bound batches keep theirs. It can be called twice."""
        with on_device(self.provider == CUDA):
            self._session = None

    def bind(
        self, feed: Feed, output: npt.NDArray[np.uint8], *, graph_id: int | None = None
    ) -> "BoundBatch":
        """Binds a batch of one size to fixed buffers.

        Args:
            feed: inputs, contiguous; the caller writes to them before each run.
            output: contiguous; each run overwrites it.
            graph_id: 1 or more, unique per batch, for a session created with `graphs`. The first
                run captures, later runs replay, all on one thread. None runs node by node.

        Raises:
            BackendFailed: the device has not enough memory.
        """
        on_gpu = self.provider == CUDA
        with on_device(on_gpu):
            return BoundBatch(self._session, on_gpu, feed, output, graph_id)


class BoundBatch:
    """Buffers of one batch size on the host and on the device, and the run between them.

    On a GPU, the host buffers are page-locked if the CUDA runtime is available, because page-locked
    memory is copied directly. On a CPU, host and device buffers are the same memory.

    Attributes:
        inputs: the buffers to write before `run`.
        output: the buffer to read after `run`.
        addresses: addresses of the device buffers, which never change.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        on_gpu: bool,
        feed: Feed,
        output: npt.NDArray[np.uint8],
        graph_id: int | None,
    ) -> None:
        self.inputs: Mapping[str, npt.NDArray[Any]] = feed
        self.output = output
        self._session = session
        self._cuda = CudaRuntime.find() if on_gpu else None
        self._on_gpu = on_gpu
        self._captures = graph_id is not None
        self._closed = False
        self._options = ort.RunOptions()
        if graph_id is not None:
            self._options.add_run_config_entry(_GRAPH_ID, str(graph_id))
        self._binding = session.io_binding()
        try:
            self._values = {name: self._make_value(array) for name, array in feed.items()}
            self._image = self._make_value(output)
            for name, value in self._values.items():
                self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._image)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise BackendFailed("not enough memory for the buffers of a batch") from error
        self.addresses = tuple(value.data_ptr() for value in (*self._values.values(), self._image))
        self._pinned: list[npt.NDArray[Any]] = []
        if self._cuda is not None:
            self._pinned = [each for each in (*feed.values(), output) if self._cuda.pin(each)]

    def _make_value(self, array: npt.NDArray[Any]) -> ort.OrtValue:
        if self._on_gpu:
            return ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cuda", 0)
        return ort.OrtValue.ortvalue_from_numpy(array)

    def run(self) -> None:
        """Computes `output` from `inputs`.

        Raises:
            BackendFailed: the runtime failed; `__cause__` has its error.
        """
        try:
            with _gate.hold_exclusively() if self._captures else on_device(self._on_gpu):
                self._run()
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise BackendFailed("the model failed to run") from error
        self._captures = False

    def _run(self) -> None:
        if not self._on_gpu:
            self._session.run_with_iobinding(self._binding, self._options)
            return
        for name, array in self.inputs.items():
            self._values[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()
        self._fetch()

    def _fetch(self) -> None:
        if self._cuda is None:
            np.copyto(self.output, self._image.numpy())
        else:
            self._cuda.fetch(self.output, self._image.data_ptr())

    def close(self) -> None:
        """Releases device memory and page locks. It can be called twice."""
        if self._closed:
            return
        self._closed = True
        with on_device(self._on_gpu):
            for array in self._pinned:
                if self._cuda is not None:
                    self._cuda.unpin(array)
            self._values.clear()
            del self._image, self._binding, self._session


def on_device(on_gpu: bool) -> contextlib.AbstractContextManager[None]:
    """Returns the context for code that allocates, frees, copies or runs on a GPU; see `Gate`."""
    return _gate.hold_shared() if on_gpu else contextlib.nullcontext()


def create_cpu_session(
    content: bytes, threads: int, directory: Path, *, spinning: bool = False
) -> Session:
    """Creates a session on the CPU.

    Args:
        content: the serialized model.
        threads: number of threads per run; with 1, the calling thread computes.
        directory: directory of the bundle, for the error message.
        spinning: whether the threads of a run spin while they wait for work; they stop spinning
            when the run ends.

    Raises:
        BundleRefused: the runtime cannot load the model.
    """
    try:
        return Session(_create_session(content, threads, [CPU], spinning=spinning))
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        why = f"ONNX Runtime {ort.__version__} cannot load it: {get_first_line(error)}"
        raise BundleRefused(directory, why, passing=is_passing(error)) from error


def create_cuda_session(content: bytes, *, graphs: bool = False) -> Session:
    """Creates a session on the first GPU.

    Args:
        content: the serialized model.
        graphs: whether runs can be captured as CUDA graphs; then only one thread can use the
            session, and every node must run on the GPU.

    Raises:
        BackendFailed: CUDA does not work, or cannot capture this model.
    """
    if CUDA not in ort.get_available_providers():
        raise BackendFailed(f"CUDA does not work: ONNX Runtime {ort.__version__} is a CPU build")
    # Finds CUDA libraries installed by pip. It never raises, so the provider is checked below.
    ort.preload_dlls()
    cuda = (CUDA, _CUDA_OPTIONS | ({"enable_cuda_graph": "1"} if graphs else {}))
    try:
        with _gate.hold_shared():
            session = _create_session(content, 1, [cuda, CPU])
    except (
        Exception
    ) as error:  # no device, no driver, or a faulty bundle, which the CPU session will report
        raise BackendFailed(f"CUDA does not work: {get_first_line(error)}") from error
    if session.get_providers()[0] != CUDA:
        raise BackendFailed("CUDA does not work: no device, or a library is missing")
    return Session(session)


def _create_session(
    content: bytes, threads: int, providers: list[Any], *, spinning: bool = False
) -> ort.InferenceSession:
    # With fallback enabled, a session whose provider fails prints a message and uses the CPU.
    return ort.InferenceSession(
        content, _make_options(threads, spinning), providers=providers, enable_fallback=False
    )


def _make_options(intra_op_threads: int, spinning: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Idle threads must not take CPU time from other batches.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def get_first_line(error: BaseException | None) -> str:
    """Returns the first line of an error's message, without the place in ONNX Runtime's source."""
    return _PLACE.sub("", (str(error).strip().splitlines() or ["no reason given"])[0])
