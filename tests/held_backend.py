"""A backend that a test can hold during a batch or cause to fail.

Imported by name: pyproject.toml puts tests/ on the path.
"""

import asyncio
import threading
from pathlib import Path

from imagemint.engine.bundle.variants import Variant

WAIT_S = 100.0
"""Longer than anything here takes on a busy machine; reached only by a test that fails.

It is less than the time limit of a test, whose message would not say what was waited for.
"""


class HeldBackend:
    """A backend that computes with `compute(batch)` when the test permits it.

    Attributes:
        batches: inputs of every run, in the order in which they began.
        failure: what the next runs raise; None for none.
        closed: whether `close` was called.
        opened: instances that are open.
        alone: runs beside which no other was to run.
    """

    provider = "CPUExecutionProvider"
    description = "CPUExecutionProvider of a test"
    variant = Variant("fp32", Path("model.onnx"), "00" * 32, 0, "fp32", None)

    def __init__(self, compute):
        self._compute = compute
        self._free = threading.Event()
        self._free.set()
        self._permits = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.batches = []
        self.failure = None
        self.closed = False
        self.opened = 0
        self.alone = 0

    @property
    def sizes(self):
        """The number of images of every run, in the order of their starts."""
        return [len(batch) for batch in self.batches]

    def hold(self):
        """Holds all further runs until `step` or `release`."""
        self._free.clear()

    def step(self):
        """Lets one held run end."""
        self._permits.release()

    def release(self):
        """Lets all runs end, including later ones."""
        self._free.set()
        self._permits.release(1000)

    async def begun(self, runs=1):
        """Waits until this many more runs have started."""
        for _ in range(runs):
            assert await asyncio.to_thread(self._begun.acquire, timeout=WAIT_S), "no run began"

    def run(self, batch):
        """Returns the images of a batch."""
        with self._lock:
            self.batches.append(batch)
        self._begun.release()
        if not self._free.is_set():
            assert self._permits.acquire(timeout=WAIT_S), "held for ever"
        if self.failure is not None:
            raise self.failure
        return self._compute(batch)

    def open_instance(self):
        """Returns an instance. All instances are held together."""
        return HeldInstance(self)

    def close(self):
        """Records the call."""
        self.closed = True


class HeldInstance:
    """The instance of one thread of a batcher."""

    def __init__(self, backend):
        self._backend = backend
        with backend._lock:
            backend.opened += 1

    def run(self, batch):
        """Returns the images of a batch."""
        return self._backend.run(batch)

    def run_alone(self, batch):
        """Returns the images of a batch and counts the run as alone."""
        self._backend.alone += 1
        return self._backend.run(batch)

    def close(self):
        """Decrements the number of open instances."""
        with self._backend._lock:
            self._backend.opened -= 1
