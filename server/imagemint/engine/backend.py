"""What the rest of the system asks of a runtime."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from imagemint.engine.bundle.variants import Variant


class Instance(Protocol):
    """What one thread runs batches with: opened, used and closed by that thread alone.

    On a GPU it owns a session, buffers and captured graphs, which are tied to the thread; on a CPU
    there is nothing to own.
    """

    def run(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Images of a batch, byte for byte those of `Backend.run`, with the same errors."""

    def run_alone(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """The same as `run`, sooner perhaps: for a batch beside which no other runs."""

    def close(self) -> None:
        """Gives back what it owns. May be called twice."""


class Backend(Protocol):
    """Turns latents into pixels, for one bundle on one device."""

    @property
    def provider(self) -> str:
        """Execution provider that does the work, such as `CPUExecutionProvider`."""

    @property
    def description(self) -> str:
        """Provider and version of the runtime, such as `CPUExecutionProvider 1.31.1`."""

    @property
    def variant(self) -> Variant:
        """Which of the bundle's graphs it runs."""

    def run(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Images [N, height, width, channels] of a batch.

        A row's pixels depend on that row alone: neither on the size of the batch nor on who shares
        it. Thread-safe; blocks its thread until done, without holding the interpreter's lock.

        Args:
            z: float32 [N, z_dim]; N may be 0.
            class_id: int64 [N], each 0 to K - 1; None for an unconditional model.
            truncation: float32 [N], for a model whose truncation is PSI; None otherwise.

        Raises:
            ValueError: shape, dtype or range disagrees with the model: a fault of the caller's
                code, for requests are validated before they get here.
            BackendFailed: the runtime failed, or the backend was closed.
        """

    def open_instance(self) -> Instance:
        """What the calling thread runs many batches with; warm when this returns.

        Raises:
            BackendFailed: the device has no room for one more, or the backend was closed.
        """

    def close(self) -> None:
        """Releases the model; runs under way finish, later ones fail. May be called twice."""
