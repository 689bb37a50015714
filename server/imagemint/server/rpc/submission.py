"""Submits the jobs of all calls for images, and waits for them."""

import asyncio
import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from imagemint.engine.errors import Draining, QueueFull
from imagemint.server.access.caller import count_refusal, current_caller
from imagemint.server.batching import Batcher, Job
from imagemint.server.repository import ModelRepository, ServedVersion
from imagemint.server.rpc.call import current_call
from imagemint.server.telemetry.metrics import Metrics

# Smaller answers of single calls are limited only by the number of calls.
_SMALL_BYTES = 64 * 2**10


@dataclass
class Gate:
    """Tells streams whether to end because the server shuts down.

    It refuses no call: calls that gRPC accepted before the drain are answered, and gRPC accepts
    none after that.

    Attributes:
        expiring: whether the grace period is nearly over. Streams then end at the next chunk, so
            that their clients resume on another server.
    """

    expiring: bool = False

    def raise_if_expiring(self) -> None:
        """Raises Draining if the grace period is nearly over."""
        if self.expiring:
            raise Draining(1.0)


class Submission:
    """Submits jobs within their caller's rate, and counts refusals.

    A stream is slowed to its caller's rate. A single call above the rate is refused.

    Args:
        repository: the models.
        metrics: the server's metrics.
        gate: tells waiting streams to end.
    """

    def __init__(self, repository: ModelRepository, metrics: Metrics, gate: Gate) -> None:
        self._repository = repository
        self._metrics = metrics
        self._gate = gate

    def name_model(self, name: str) -> None:
        """Sets the model of the call, if the model exists.

        Raises:
            NotAllowed: the caller may not use the model.
        """
        if name in self._repository.models:
            current_call.get().model = name
        if name:
            current_caller.get().check_model(name)

    def hold_version(self, name: str, version: str) -> "VersionHold":
        """Resolves the model of a call, and keeps the version loaded until the end of the block.

        Args:
            name: model name.
            version: a positive decimal integer; empty for the default version.

        Raises:
            NotAllowed: the caller may not use the model.
            ModelNotFound, VersionNotFound, ModelNotReady: as in `ModelRepository.resolve`.
        """
        self.name_model(name)
        served = self._repository.resolve(name, version)
        while not served.holds.take():  # it was unloaded just then
            served = self._repository.resolve(name, version)
        return VersionHold(served)

    async def submit(self, version: ServedVersion, job: Job, piece: Hashable = None) -> None:
        """Queues the job of a single call, or the first job of a stream.

        It waits for memory for the answer. A single call above the caller's rate is refused, and a
        stream waits.

        Args:
            version: version of the model.
            job: the job to queue.
            piece: for a job of a stream, the key for `Call.release` after its images were sent.

        Raises:
            RateLimited: the caller of a single call has used up its rate.
            QueueFull, Draining: as in `Batcher.submit`.
        """
        caller = current_caller.get()
        size = job.count_result_bytes(version.spec)
        if piece is not None:
            await current_call.get().reserve(size, piece)
            await caller.pace(job.count, lambda: self._raise_if_ending(version))
            job.streamed = True
        else:
            if size > _SMALL_BYTES:
                await current_call.get().reserve(size)
            caller.charge(job.count)
        try:
            version.batcher.submit(job)
        except BaseException as error:
            caller.give_back(job.count)
            if isinstance(error, QueueFull | Draining):
                self._metrics.rejected.labels(version.spec.name, error.reason.lower()).inc()
            raise
        caller.count(version.spec.name, job.count)

    async def charge(self, version: ServedVersion, images: int, *, streamed: bool) -> None:
        """Charges the images of one translation to its caller's rate, before work is done for it.

        Args:
            version: version of the model.
            images: number of images.
            streamed: whether they belong to a stream, which is slowed to its caller's rate.

        Raises:
            RateLimited: the caller of a single call has used up its rate.
        """
        caller = current_caller.get()
        if streamed:
            await caller.pace(images, lambda: self._raise_if_ending(version))
        else:
            caller.charge(images)

    async def submit_all(
        self,
        version: ServedVersion,
        jobs: Sequence[Job],
        *,
        charged: int,
        streamed: bool = False,
        patient: bool = False,
    ) -> None:
        """Queues the jobs of one translation; memory for their results is reserved already.

        Args:
            version: version of the model.
            jobs: the jobs; if one cannot be queued, all are dropped.
            charged: number of images that `charge` has charged.
            streamed: whether they belong to a stream.
            patient: whether to wait until the queue has room.

        Raises:
            QueueFull, Draining: as in `Batcher.submit`.
        """
        caller = current_caller.get()
        images = sum(job.count for job in jobs)
        if images != charged:  # then a decoded picture stands upright, and has other tiles
            caller.give_back(charged - images)  # fewer than none leave the caller in debt
        queued: list[Job] = []
        try:
            for job in jobs:
                job.streamed = streamed
                if patient:
                    await version.batcher.submit_when_room(job)
                else:
                    version.batcher.submit(job)
                queued.append(job)
        except BaseException as error:
            for job in queued:
                version.batcher.drop(job)
            caller.give_back(images)
            if isinstance(error, QueueFull | Draining):
                self._metrics.rejected.labels(version.spec.name, error.reason.lower()).inc()
            raise
        caller.count(version.spec.name, images)

    async def submit_when_room(self, version: ServedVersion, job: Job, piece: Hashable) -> None:
        """Queues a job of a stream as soon as memory, rate and queue have room for it.

        Args:
            version: version of the model.
            job: the job to queue.
            piece: as in `submit`.

        Raises:
            Draining: as in `Batcher.submit`.
        """
        await current_call.get().reserve(job.count_result_bytes(version.spec), piece)
        await current_caller.get().pace(job.count, lambda: self._raise_if_ending(version))
        try:
            await version.batcher.submit_when_room(job)
        except BaseException:
            current_caller.get().give_back(job.count)
            raise
        current_caller.get().count(version.spec.name, job.count)

    async def submit_candidates(self, version: ServedVersion, job: Job) -> None:
        """Queues further candidates of a filter as soon as rate and queue have room for them.

        They take the place of images for which the call has reserved memory.

        Args:
            version: version of the model.
            job: the job to queue.

        Raises:
            Draining: as in `Batcher.submit`.
        """
        self._raise_if_ending(version)
        caller = current_caller.get()
        await caller.pace(job.count, lambda: self._raise_if_ending(version))
        try:
            await version.batcher.submit_when_room(job)
        except BaseException:
            caller.give_back(job.count)
            raise
        caller.count(version.spec.name, job.count)

    def submit_ahead(self, version: ServedVersion, job: Job, piece: Hashable) -> bool:
        """Queues a job that a stream computes ahead of its reader; returns whether it was queued.

        Args:
            version: version of the model.
            job: the job to queue.
            piece: as in `submit`.

        Raises:
            Draining: as in `Batcher.submit`.
        """
        call, caller = current_call.get(), current_caller.get()
        if not call.reserve_now(job.count_result_bytes(version.spec), piece):
            return False
        if not caller.charge_ahead(job.count):
            call.release(piece)
            return False
        queued = False
        try:
            queued = version.batcher.submit_ahead(job)
        finally:
            if not queued:
                caller.give_back(job.count)
                call.release(piece)
        if queued:
            caller.count(version.spec.name, job.count)
        return queued

    def _raise_if_ending(self, version: ServedVersion) -> None:
        self._gate.raise_if_expiring()
        version.stay()

    def count_refusal(self, error: Exception) -> None:
        """Counts a request of a stream that was refused for an access reason."""
        count_refusal(self._metrics, error, current_call.get().model)


class VersionHold:
    """Keeps a version loaded during a block. A generator would take three times as long to enter.

    Args:
        version: the version, which is already held.
    """

    def __init__(self, version: ServedVersion) -> None:
        self._version = version

    def __enter__(self) -> ServedVersion:
        return self._version

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._version.holds.give()
        if isinstance(exc_value, Draining):
            self._version.stay()  # raises if the version is being unloaded


async def wait_or_drop(batcher: Batcher, job: Job) -> None:
    """Waits for a job; drops it if the caller leaves."""
    try:
        await job.done
    except asyncio.CancelledError:
        batcher.drop(job)
        raise
    finally:
        current_call.get().trace(job)


async def wait_for_all(batcher: Batcher, jobs: Sequence[Job]) -> None:
    """Waits for several jobs; drops them all if one fails or the caller leaves."""
    try:
        for job in jobs:
            await job.done
    except BaseException:
        for job in jobs:
            batcher.drop(job)
        raise
    finally:
        for job in jobs:
            current_call.get().trace(job)


async def wait_for_job(job: Job) -> None:
    """Waits for one of several jobs, and adds its stages to the trace of the call."""
    try:
        await job.done
    finally:
        current_call.get().trace(job)


def get_deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Returns the caller's deadline as a `time.monotonic` value; infinity for none."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining
