"""The interfaces of a runtime: `Backend` and `Instance`."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from imagemint.engine.batch import Batch
from imagemint.engine.bundle.variants import Variant


class Instance(Protocol):
    """Runs batches for one thread, which alone opens, uses and closes it.

    On a GPU it owns a session, buffers and captured graphs, which are bound to the thread. On a CPU
    it owns nothing.
    """

    def run(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns the images of a batch, the same bytes and errors as `Backend.run`."""

    def run_alone(self, batch: Batch) -> npt.NDArray[np.uint8]:
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

    def run(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns the images of a batch, uint8 [N, height, width, channels].

        The pixels of a row depend only on that row, not on the size or the other rows of the batch.
        The method is thread-safe, and blocks its thread without holding the GIL.

        Raises:
            ValueError: an input is missing, or its dtype or shape does not fit the model. This is
                a bug in the calling code, because requests are validated before.
            BackendFailed: the runtime failed, or the backend is closed.
        """

    def open_instance(self) -> Instance:
        """Returns a warmed-up instance, with which the calling thread can run many batches.

        Raises:
            BackendFailed: the device has not enough memory, or the backend is closed.
        """

    def close(self) -> None:
        """Releases the model. Active runs finish, later ones fail. It can be called twice."""
