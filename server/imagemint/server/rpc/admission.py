"""What all calls for images share: the way in, the wait for the work, and the way out."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

import grpc

from imagemint.engine.errors import Draining, QueueFull
from imagemint.server.batching import Batcher, Job
from imagemint.server.metrics import Metrics
from imagemint.server.repository import ModelRepository
from imagemint.server.rpc.calls import current_call


@dataclass
class Gate:
    """Whether calls should leave.

    It refuses none: what gRPC has accepted when the drain begins is answered like the rest, and it
    accepts nothing after that.

    Attributes:
        expiring: the grace period is nearly over; streams end at the next chunk, so that their
            clients resume elsewhere.
    """

    expiring: bool = False

    def stay(self) -> None:
        """Raises Draining when the grace period is nearly over."""
        if self.expiring:
            raise Draining(1.0)


class Admission:
    """Lets work into the queues, and counts what is turned away.

    Args:
        repository: the models.
        metrics: where to count.
    """

    def __init__(self, repository: ModelRepository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics

    def name_model(self, name: str) -> None:
        """Notes for which model the call is, if there is such a model."""
        if name in self._repository.models:
            current_call.get().model = name

    def submit(self, batcher: Batcher, job: Job) -> None:
        """Queues a job.

        Raises:
            QueueFull, Draining: as `Batcher.submit`.
        """
        try:
            batcher.submit(job)
        except (QueueFull, Draining) as error:
            self._metrics.rejected.labels(current_call.get().model, error.reason.lower()).inc()
            raise


async def finished(batcher: Batcher, job: Job) -> None:
    """Waits for a job; a caller who leaves takes with him what has not begun."""
    try:
        await done(job)
    except asyncio.CancelledError:
        batcher.drop(job)
        raise


async def done(job: Job) -> None:
    """Waits for a job, and tells its story to the trace of the call, however it ends."""
    try:
        await job.done
    finally:
        current_call.get().trace(job)


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Returns the `time.monotonic` value at which the caller gives up; infinity for never."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining
