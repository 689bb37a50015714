"""The batcher: a queue and the instances that compute its images.

An idle instance computes the queued images at once, and waits for more only if a delay is set. The
unit is the image. room.py decides which jobs may enter the queue, and queue.py decides their order.
No model runs on the event loop. The pixels of a serial do not depend on the other images in its
batch, so the batches do not affect the answers. Sources of one size share a pass of the model; a
batch with several sizes is computed one size after another.
"""

import asyncio
import contextlib
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from imagemint.engine.backend import Backend
from imagemint.engine.errors import BackendFailed, DeadlinePassed, Draining, QueueFull
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching.batch import (
    allocate_images,
    assign_images,
    count_images,
    group_by_size,
    stack_inputs,
)
from imagemint.server.batching.drain_rate import DrainRate
from imagemint.server.batching.job import Job, Slice
from imagemint.server.batching.model_metrics import ModelMetrics
from imagemint.server.batching.queue import Queue
from imagemint.server.batching.room import Room, Waiter
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.statistics import Phases

_log = logging.getLogger(__name__)

# Smaller batches are not split over idle instances: the fixed cost of a batch would outweigh the
# gain.
_SMALLEST_SHARE = 8
_RETRY_DELAY_S = (0.05, 10.0)
# A caller is alone after this many batches in a row that were one caller's while the queue was
# empty. A single such batch may belong to the first of many callers.
_SOLO_BATCHES = 2


class Batcher:
    """The queue and the instances of one version of a model.

    Args:
        spec: the model.
        version: version of the model, for metric labels.
        backend: computes images; each thread opens its own instance.
        metrics: the server's metrics.
        instances: number of batches that are computed in parallel.
        max_batch_images: most images in one batch.
        max_queue_images: most images that may wait; HIGH jobs may exceed it by an eighth.
        batch_delay_s: time that a batch with room may wait for more images. Default: 0, it never
            waits. HIGH jobs and the rest of a job that has begun never wait.
        preferred_batch_images: preferred batch sizes, each 1 to `max_batch_images`. A batch gets
            the largest size that the queue fills, whatever the delay. A queue that fills the
            smallest size does not wait. Fewer images form a batch of their own number.
        niceness: niceness of the instances' threads, 0 to 19, on systems where each thread has its
            own.

    Raises:
        Exception: an instance could not be opened; the backend's own error.
    """

    def __init__(
        self,
        spec: ModelSpec,
        version: int,
        backend: Backend,
        metrics: Metrics,
        *,
        instances: int,
        max_batch_images: int,
        max_queue_images: int,
        batch_delay_s: float = 0.0,
        preferred_batch_images: Sequence[int] = (),
        niceness: int = 0,
    ) -> None:
        self._spec = spec
        self._backend = backend
        self._max_batch = max_batch_images
        self.instances = instances
        self.delay_s = batch_delay_s
        self.preferred_images = tuple(sorted(preferred_batch_images))
        self._model_metrics = ModelMetrics(spec, version, metrics)
        self.statistics = self._model_metrics.statistics
        labels = (spec.name, str(version))
        self._niceness = niceness
        self._lock = threading.Lock()
        # Each item wakes one instance. The C queue of the standard library costs a fraction of a
        # threading.Condition.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._waking = 0
        self._queue = Queue()
        self._idle = 0
        self._solo_batches = 0
        self._closed = False
        self._drain_rate = DrainRate()
        self._room = Room(self._queue, max_queue_images)
        opened: list[Future[None]] = [Future() for _ in range(instances)]
        self._threads = [
            threading.Thread(
                target=self._work, args=(each,), name=f"{spec.name}-{version}-{number}", daemon=True
            )
            for number, each in enumerate(opened)
        ]
        for thread in self._threads:
            thread.start()
        try:
            for future in opened:
                future.result()
        except BaseException:
            self.close()
            raise
        # The metrics are set last: until this batcher can serve, they describe the batcher that
        # serves the version.
        metrics.watch(metrics.queue_images, labels, lambda: self._queue.images)
        metrics.queue_limit_images.labels(*labels).set(max_queue_images)

    # --- runs on the event loop -----------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queues a job of the running event loop; ``job.done`` resolves when it is complete.

        ``job.done`` fails with DeadlinePassed or BackendFailed.

        Raises:
            QueueFull: there is no room for this many images now.
            Draining: the batcher is closed.
        """
        with self._lock:
            excess = self._room.count_excess(job)
            if excess <= 0 or self._closed:
                self._enqueue(job)
                return
        self.statistics.add_failure(0)
        raise QueueFull(self._spec.name, self._retry_delay_s(excess))

    def submit_ahead(self, job: Job) -> bool:
        """Queues a job that a stream computes ahead of its reader; returns whether it was queued.

        Raises:
            Draining: the batcher is closed.
        """
        job.streamed = True
        with self._lock:
            fits = self._room.fits_ahead(job)
            if fits or self._closed:
                self._enqueue(job)
        return fits

    async def submit_when_room(self, job: Job) -> None:
        """Queues a job of a stream as soon as there is room, in order of arrival.

        Raises:
            Draining: the batcher is closed.
        """
        job.streamed = True
        with self._lock:
            waiter = self._room.wait(job, asyncio.get_running_loop().create_future())
        self._admit()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            self._cancel_wait(waiter)
            raise

    def _enqueue(self, job: Job) -> None:
        """Queues a job; the caller holds the lock."""
        if self._closed:
            raise Draining(1.0)
        loop = asyncio.get_running_loop()
        job.done = loop.create_future()
        job.accepted_ns = time.perf_counter_ns()
        was_empty = not self._queue.images
        self._queue.append(job)
        # A busy instance checks the queue when it has finished. An instance that waits for a fuller
        # batch must see every job.
        if self._idle > 0 and (was_empty or self.delay_s > 0):
            loop.call_soon(self._wake)

    def _cancel_wait(self, waiter: Waiter) -> None:
        """Removes a job whose caller left while the job waited for room."""
        if waiter.admitted.done() and not waiter.admitted.cancelled():
            if waiter.admitted.exception() is None:
                self.drop(waiter.job)
            return
        with self._lock:
            self._room.leave(waiter)
        self._admit()

    def _wake(self) -> None:
        """Wakes an instance; one instance wakes the next while there is work.

        It runs at the end of an iteration of the event loop, so that the calls of one iteration
        form one batch. To wake a thread costs as much as half a call, and from then on both threads
        share the interpreter's lock.
        """
        with self._lock:
            self._wake_one()

    def _wake_one(self) -> None:
        """Wakes an idle instance that is not being woken yet; the caller holds the lock."""
        if self._waking < self._idle:
            self._waking += 1
            self._wakes.put(None)

    def drop(self, job: Job) -> None:
        """Removes the images of a job that no batch has taken; the caller no longer waits for them.

        Call it on the event loop for a submitted job in any state. It cancels `job.done` if that is
        still pending.
        """
        if not job.done.cancel() and not job.done.cancelled():
            job.done.exception()  # asyncio would log an error that nobody retrieved
        with self._lock:
            if job.dropped or job.taken == job.count:
                return
            self._remove(job)
        self._admit()

    def close(self, timeout_s: float | None = None) -> bool:
        """Computes the queued jobs and ends the instances; from now on `submit` refuses.

        Args:
            timeout_s: time to wait for the end. Default: no limit.

        Returns:
            Whether all instances have ended. If False, they end later by themselves.
        """
        with self._lock:
            self._closed = True
            self._wake_one()
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if timeout_s is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _retry_delay_s(self, excess: int) -> float:
        """Returns the estimated time until the queue has room for `excess` more images."""
        least, most = _RETRY_DELAY_S
        rate = self._drain_rate.per_s
        if rate == 0:
            return 1.0
        return min(max(excess / rate, least), most)

    def _resolve(self, jobs: list[Job], error: Exception | None) -> None:
        """Resolves jobs and queues jobs that wait for room; runs on the event loop."""
        for job in jobs:
            if not job.done.done():
                if error is None:
                    job.done.set_result(None)
                else:
                    job.done.set_exception(error)
        self._admit()

    def _admit(self) -> None:
        """Queues the waiting jobs for which there is room now."""
        if not self._room:
            return
        with self._lock:
            while (waiter := self._room.take_next(any_size=self._closed)) is not None:
                if waiter.admitted.cancelled():
                    continue
                try:
                    self._enqueue(waiter.job)
                except Draining as error:
                    waiter.admitted.set_exception(error)
                else:
                    waiter.admitted.set_result(None)

    # --- runs on the instances' threads ---------------------------------------------------------

    def _work(self, opened: Future[None]) -> None:
        if self._niceness and sys.platform == "linux":  # elsewhere it applies to the process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        try:
            instance = self._backend.open_instance()
        except BaseException as error:  # noqa: BLE001 - raised again by the constructor
            opened.set_exception(error)
            return
        opened.set_result(None)
        with contextlib.closing(instance):
            while (work := self._take_batch()) is not None:
                batch, is_alone = work
                run = instance.run_alone if is_alone else instance.run
                self._compute(batch, run)

    def _take_batch(self) -> tuple[list[Slice], bool] | None:
        """Waits for work and returns a batch; None when the batcher is closed and its queue empty.

        The second value tells whether the batch is the only work: it is one caller's, and nothing
        else waits or is computed. With several callers, others soon need the other cores.
        """
        with self._lock:
            self._idle += 1
        while True:
            with self._lock:
                if time.monotonic() >= self._queue.next_deadline:
                    self._drop_late()
                if self._queue.images and not (self.delay_s and self._should_wait()):
                    batch = self._queue.cut(self._choose_batch_size())
                    is_solo = (
                        self._idle == self.instances and len(batch) == 1 and not self._queue.images
                    )
                    self._solo_batches = self._solo_batches + 1 if is_solo else 0
                    self._idle -= 1
                    if self._queue.images:
                        self._wake_one()
                    return batch, self._solo_batches >= _SOLO_BATCHES
                if self._closed and not self._queue.images:
                    self._idle -= 1
                    self._wake_one()
                    return None
                timeout_s = (
                    max(0.0, self._compute_remaining_delay_s()) if self._queue.images else None
                )
            self._sleep(timeout_s)

    def _sleep(self, timeout_s: float | None) -> None:
        try:
            self._wakes.get(timeout=timeout_s)
        except queue.Empty:
            return
        with self._lock:
            self._waking -= 1

    def _drop_late(self) -> None:
        late = self._queue.find_late(time.monotonic())
        if not late:
            return
        for job in late:
            self._remove(job)
            self.statistics.add_failure(time.perf_counter_ns() - job.accepted_ns)
        _call_on_loop(late[0], self._resolve, late, DeadlinePassed())

    def _remove(self, job: Job) -> None:
        job.dropped = True
        self._queue.remove(job)

    def _compute_remaining_delay_s(self) -> float:
        """Returns the time that the queue may still wait for more images."""
        if not self._queue.can_wait:
            return 0.0
        return self.delay_s - (time.perf_counter_ns() - self._queue.oldest_ns) / 1e9

    def _should_wait(self) -> bool:
        enough = self.preferred_images[0] if self.preferred_images else self._max_batch
        return (
            self._queue.images < enough
            and not self._closed
            and self._compute_remaining_delay_s() > 0
        )

    def _choose_batch_size(self) -> int:
        """Returns the size of the next batch: the queue, divided among the idle instances.

        If several callers wait, some images are left for the instances that will be idle soon,
        because a later caller would wait for the whole of a batch that took everything. With two
        instances, a third is left.
        """
        queued = self._queue.images
        fair = -(-queued // max(self._idle, 1))
        if self._queue.is_shared:
            fair = min(fair, -(-2 * queued // (self.instances + 1)))
        share = min(self._max_batch, max(fair, _SMALLEST_SHARE))
        if not self.preferred_images:
            return share
        filled = [size for size in self.preferred_images if size <= queued]
        return max((size for size in filled if size <= share), default=min(filled, default=share))

    def _compute(
        self,
        batch: list[Slice],
        run: Callable[..., npt.NDArray[np.uint8]],
    ) -> None:
        for part in group_by_size(batch):
            self._compute_part(part, run)

    def _compute_part(self, batch: list[Slice], run: Callable[..., npt.NDArray[np.uint8]]) -> None:
        """Computes a batch whose sources, if any, have one size."""
        began = time.perf_counter_ns()
        for job, start, _ in batch:
            if not start:
                job.started_ns = began
        try:
            inputs = stack_inputs(batch, self._spec)
            before = time.perf_counter_ns()
            images = run(inputs)
            after = time.perf_counter_ns()
            with self._lock:
                allocate_images(batch, self._spec)
            assign_images(batch, len(inputs), images, self._spec)
            took = Phases(before - began, after - before, time.perf_counter_ns() - after)
        except Exception as error:  # noqa: BLE001 - every error of a runtime goes to the callers
            _log.exception("batch of %d images failed", count_images(batch))
            self._fail(batch, error)
            return
        # The event loop does the rest: an instance would wait for the interpreter's lock.
        ended = time.perf_counter_ns()
        _call_on_loop(batch[0].job, self._finish, batch, len(inputs), (began, ended), took)

    def _finish(
        self, batch: list[Slice], images: int, times_ns: tuple[int, int], took: Phases
    ) -> None:
        """Resolves the finished jobs and counts the batch; runs on the event loop."""
        began_ns, ended_ns = times_ns
        finished: list[Job] = []
        for job, start, stop in batch:
            job.input_ns += took.input_ns
            job.inference_ns += took.inference_ns
            job.output_ns += took.output_ns
            job.computed += stop - start
            if job.computed == job.count:
                job.finished_ns = ended_ns
                finished.append(job)
        self._resolve(finished, None)
        self._drain_rate.add(images, began_ns, ended_ns)
        self._model_metrics.add(batch, images, began_ns, took, finished)

    def _fail(self, batch: list[Slice], cause: Exception) -> None:
        error = BackendFailed(f"model {self._spec.name!r} failed to compute a batch")
        error.__cause__ = cause
        jobs = [piece.job for piece in batch]
        with self._lock:
            for job in jobs:
                if not job.dropped:
                    self.statistics.add_failure(time.perf_counter_ns() - job.accepted_ns)
                if job in self._queue:
                    self._remove(job)
                job.dropped = True
        _call_on_loop(batch[0].job, self._resolve, jobs, error)


def _call_on_loop(job: Job, call: Callable[..., None], *arguments: object) -> None:
    # A closed loop has no callers left, and it may close at any time.
    with contextlib.suppress(RuntimeError):
        job.done.get_loop().call_soon_threadsafe(call, *arguments)
