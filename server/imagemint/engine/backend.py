"""The interfaces of a runtime: `Backend` and `Instance`."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from imagemint.engine.bundle.variants import Variant


class Instance(Protocol):
    """Runs batches for one thread, which alone opens, uses and closes it.

    On a GPU it owns a session, buffers and captured graphs, which are bound to the thread. On a CPU
    it owns nothing.
    """

    def run(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Returns the images of a batch, the same bytes and errors as `Backend.run`."""

    def run_alone(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Returns the same as `run`, possibly faster; for a batch while no other one runs."""

    def close(self) -> None:
        """Releases its resources. It can be called twice."""


class Backend(Protocol):
    """Turns latents into pixels, for one bundle on one device."""

    @property
    def provider(self) -> str:
        """The active execution provider, such as `CPUExecutionProvider`."""

    @property
    def description(self) -> str:
        """Provider and version of the runtime, such as `CPUExecutionProvider 1.31.1`."""

    @property
    def variant(self) -> Variant:
        """The graph of the bundle that it runs."""

    def run(
        self,
        z: npt.NDArray[np.float32],
        class_id: npt.NDArray[np.int64] | None = None,
        truncation: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Returns the images of a batch, uint8 [N, height, width, channels].

        The pixels of a row depend only on that row, not on the size or the other rows of the batch.
        The method is thread-safe, and blocks its thread without holding the GIL.

        Args:
            z: float32 [N, z_dim]; N can be 0.
            class_id: int64 [N], each 0 to K - 1; None for an unconditional model.
            truncation: float32 [N], for a model whose truncation is PSI; None otherwise.

        Raises:
            ValueError: a shape, dtype or range does not fit the model. This is a bug in the calling
                code, because requests are validated before.
            BackendFailed: the runtime failed, or the backend is closed.
        """

    def open_instance(self) -> Instance:
        """Returns a warmed-up instance, with which the calling thread can run many batches.

        Raises:
            BackendFailed: the device has not enough memory, or the backend is closed.
        """

    def close(self) -> None:
        """Releases the model. Active runs finish, later ones fail. It can be called twice."""
