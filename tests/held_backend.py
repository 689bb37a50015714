"""A backend under a test's control: it can be held in the middle of a batch, and be made to fail.

Imported by name: pyproject.toml puts tests/ on the path.
"""

import asyncio
import threading
from pathlib import Path

from imagemint.engine.bundle.variants import Variant

WAIT_S = 60.0
"""Longer than anything here takes on a busy machine; reached only by a test that fails."""


class HeldBackend:
    """Computes with `compute(batch)`, when it may.

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
        """Images of every run, in the order in which they began."""
        return [len(batch) for batch in self.batches]

    def hold(self):
        """Lets no further run end until `step` or `release`."""
        self._free.clear()

    def step(self):
        """Lets one held run end."""
        self._permits.release()

    def release(self):
        """Lets all runs end, now and to come."""
        self._free.set()
        self._permits.release(1000)

    async def begun(self, runs=1):
        """Waits until so many more runs have begun."""
        for _ in range(runs):
            assert await asyncio.to_thread(self._begun.acquire, timeout=WAIT_S), "no run began"

    def run(self, batch):
        """The images of a batch."""
        with self._lock:
            self.batches.append(batch)
        self._begun.release()
        if not self._free.is_set():
            assert self._permits.acquire(timeout=WAIT_S), "held for ever"
        if self.failure is not None:
            raise self.failure
        return self._compute(batch)

    def open_instance(self):
        """Of itself: all instances are held together."""
        return HeldInstance(self)

    def close(self):
        """Notes that it was called."""
        self.closed = True


class HeldInstance:
    """What one thread of a batcher runs."""

    def __init__(self, backend):
        self._backend = backend
        with backend._lock:
            backend.opened += 1

    def run(self, batch):
        """The images of a batch."""
        return self._backend.run(batch)

    def run_alone(self, batch):
        """The images of a batch, noted as alone."""
        self._backend.alone += 1
        return self._backend.run(batch)

    def close(self):
        """Counts down."""
        with self._backend._lock:
            self._backend.opened -= 1
