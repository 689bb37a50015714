"""The batcher: a queue, and the instances that it feeds.

It is greedy: an instance that is free runs what is queued, and waits for more only if asked to. The
unit is the image. See room.py for what may be queued, and queue.py for what goes first. Nothing of
a model runs on the event loop. A serial's pixels do not depend on what shares its batch, so none of
this shows in the answers.
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
    stack_classes,
    stack_latents,
    stack_truncation,
)
from imagemint.server.batching.drain_rate import DrainRate
from imagemint.server.batching.job import Job, Slice
from imagemint.server.batching.model_metrics import ModelMetrics
from imagemint.server.batching.queue import Queue
from imagemint.server.batching.room import Room, Waiter
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.statistics import Phases

_log = logging.getLogger(__name__)

# Below this a batch is not split over idle instances: the fixed cost of a pass would outweigh it.
_SMALLEST_SHARE = 8
_RETRY_DELAY_S = (0.05, 10.0)
# A caller is alone when so many batches in a row were one caller's and nothing else was to be done.
# The first of many who call together is no such caller, though he comes alone.
_SOLO_BATCHES = 2


class Batcher:
    """Queue and instances of one version of a model.

    Args:
        spec: the model.
        version: its version, for labels.
        backend: what computes; each thread opens an instance of its own.
        metrics: where to count.
        instances: batches that run side by side.
        max_batch_images: images in one batch at most.
        max_queue_images: images that may wait; HIGH ones may exceed it by an eighth.
        batch_delay_s: time a batch with room may wait for more; 0 never waits. HIGH jobs are not
            kept waiting, nor is what is left of a job that has begun.
        preferred_batch_images: sizes to cut batches to, each 1 to `max_batch_images`: the largest
            of them that the queue fills, whatever the delay. Once it fills the smallest, it is not
            kept waiting. Less than the smallest runs as it comes.
        niceness: of the instances' threads, 0 to 19, where threads have one of their own.

    Raises:
        Exception: an instance could not be opened; whatever the backend said.
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
        # One for each instance that is to look at the queue. The queue of the standard library that
        # is written in C: a threading.Condition costs several times as much.
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
            for each in opened:
                each.result()
        except BaseException:
            self.close()
            raise
        # Only now: until it can serve, they tell of whatever serves the version already.
        metrics.watch(metrics.queue_images, labels, lambda: self._queue.images)
        metrics.queue_limit_images.labels(*labels).set(max_queue_images)

    @property
    def _queued(self) -> int:
        return self._queue.images

    # --- the event loop's side ------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queues a job of the running event loop; ``job.done`` resolves when it is whole.

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
        """Queues a job that a stream reads ahead of its consumer; returns whether it did.

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
        """Queues a job of a stream, after those that have waited longer for room.

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
        """Queues a job; the lock is held."""
        if self._closed:
            raise Draining(1.0)
        loop = asyncio.get_running_loop()
        job.done = loop.create_future()
        job.accepted_ns = time.perf_counter_ns()
        was_empty = not self._queue
        self._queue.append(job)
        # A busy instance looks at the queue when it has finished. One that waits for a fuller batch
        # must see every job.
        if self._idle > 0 and (was_empty or self.delay_s > 0):
            loop.call_soon(self._wake)

    def _cancel_wait(self, waiter: Waiter) -> None:
        """Removes a job whose caller has left while it waited for room."""
        if waiter.admitted.done() and not waiter.admitted.cancelled():
            if waiter.admitted.exception() is None:
                self.drop(waiter.job)
            return
        with self._lock:
            self._room.leave(waiter)
        self._admit()

    def _wake(self) -> None:
        """Has an instance look at the queue; one instance wakes the next while there is work.

        It runs at the end of a turn of the loop, so that the calls of one turn are one batch. To
        wake a thread costs as much as half a call, and from then on the two share the interpreter's
        lock.
        """
        with self._lock:
            self._wake_one()

    def _wake_one(self) -> None:
        """Wakes an instance, if one sleeps that is not being woken yet; the lock is held."""
        if self._waking < self._idle:
            self._waking += 1
            self._wakes.put(None)

    def drop(self, job: Job) -> None:
        """Takes back what of a job has not begun; nothing is computed for a caller who left.

        On the event loop, for a job that was submitted, whatever became of it since; nobody waits
        for it any more, and `job.done` is cancelled if it is still open.
        """
        if not job.done.cancel() and not job.done.cancelled():
            job.done.exception()  # seen: asyncio would complain of an error that nobody asked for
        with self._lock:
            if job.dropped or job.taken == job.count:
                return
            self._remove(job)
        self._admit()

    def close(self, timeout_s: float | None = None) -> bool:
        """Finishes what is queued and ends the instances; from now on `submit` refuses.

        Args:
            timeout_s: time to wait for the end; None waits as long as it takes.

        Returns:
            Whether all instances have ended; False leaves them to end by themselves.
        """
        with self._lock:
            self._closed = True
            self._wake_one()
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if timeout_s is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _retry_delay_s(self, excess: int) -> float:
        """Time until the queue should have room for `excess` more images, from the drain rate."""
        least, most = _RETRY_DELAY_S
        rate = self._drain_rate.per_s
        if rate == 0:
            return 1.0
        return min(max(excess / rate, least), most)

    def _resolve(self, jobs: list[Job], error: Exception | None) -> None:
        """Resolves jobs and lets in those that wait for room; on the event loop."""
        for job in jobs:
            if not job.done.done():
                if error is None:
                    job.done.set_result(None)
                else:
                    job.done.set_exception(error)
        self._admit()

    def _admit(self) -> None:
        """Queues the jobs that have waited for the room that there is now."""
        if not self._room:
            return
        with self._lock:
            while (waiter := self._room.next(any_size=self._closed)) is not None:
                if waiter.admitted.cancelled():
                    continue
                try:
                    self._enqueue(waiter.job)
                except Draining as error:
                    waiter.admitted.set_exception(error)
                else:
                    waiter.admitted.set_result(None)

    # --- the instances' side --------------------------------------------------------------------

    def _work(self, opened: Future[None]) -> None:
        if self._niceness and sys.platform == "linux":  # elsewhere it is the process that is nice
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        try:
            instance = self._backend.open_instance()
        except BaseException as error:  # noqa: BLE001 - raised again where the batcher is made
            opened.set_exception(error)
            return
        opened.set_result(None)
        with contextlib.closing(instance):
            while (taken := self._take_batch()) is not None:
                batch, is_alone = taken
                run = instance.run_alone if is_alone else instance.run
                self._compute(batch, run)

    def _take_batch(self) -> tuple[list[Slice], bool] | None:
        """Waits for work and returns a batch of it; None when closed and empty.

        And whether it is alone: one caller's, and nothing else is computed or waits. Where several
        call, others will soon want the other cores.
        """
        with self._lock:
            self._idle += 1
        while True:
            with self._lock:
                self._drop_late()
                if self._queue and not self._should_wait():
                    batch = self._queue.cut(self._choose_batch_size())
                    allocate_images(batch, self._spec)
                    is_solo = self._idle == self.instances and len(batch) == 1 and not self._queue
                    self._solo_batches = self._solo_batches + 1 if is_solo else 0
                    self._idle -= 1
                    if self._queue:
                        self._wake_one()
                    return batch, self._solo_batches >= _SOLO_BATCHES
                if self._closed and not self._queue:
                    self._idle -= 1
                    self._wake_one()
                    return None
                timeout_s = max(0.0, self._remaining_delay_s()) if self._queue else None
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

    def _remaining_delay_s(self) -> float:
        """Time that the queue may still wait for company."""
        if not self._queue.can_wait:
            return 0.0
        return self.delay_s - (time.perf_counter_ns() - self._queue.oldest_ns) / 1e9

    def _should_wait(self) -> bool:
        enough = self.preferred_images[0] if self.preferred_images else self._max_batch
        return self._queued < enough and not self._closed and self._remaining_delay_s() > 0

    def _choose_batch_size(self) -> int:
        """Images for this batch: the queue, divided among the instances that are free now.

        Of several callers' images something is left for those that will be free soon, for whoever
        comes next would wait for the whole of a batch that took everything: where there are two
        instances, a third.
        """
        fair = -(-self._queued // max(self._idle, 1))
        if self._queue.is_shared:
            fair = min(fair, -(-2 * self._queued // (self.instances + 1)))
        share = min(self._max_batch, max(fair, _SMALLEST_SHARE))
        filled = [size for size in self.preferred_images if size <= self._queued]
        return max((size for size in filled if size <= share), default=min(filled, default=share))

    def _compute(
        self,
        batch: list[Slice],
        run: Callable[..., npt.NDArray[np.uint8]],
    ) -> None:
        began = time.perf_counter_ns()
        for job, start, _ in batch:
            if not start:
                job.started_ns = began
        try:
            z = stack_latents(batch, self._spec)
            class_id = stack_classes(batch)
            truncation = stack_truncation(batch)
            before = time.perf_counter_ns()
            images = run(z, class_id, truncation)
            after = time.perf_counter_ns()
            assign_images(batch, images, self._spec)
            took = Phases(before - began, after - before, time.perf_counter_ns() - after)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises, the callers must hear
            _log.exception("batch of %d images failed", count_images(batch))
            self._fail(batch, error)
            return
        # The rest is the loop's: an instance would only wait for the interpreter's lock.
        _call_on_loop(batch[0].job, self._finish, batch, began, time.perf_counter_ns(), took)

    def _finish(self, batch: list[Slice], began_ns: int, ended_ns: int, took: Phases) -> None:
        """Tells who is whole, and has the batch accounted for; on the event loop."""
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
        self._drain_rate.add(count_images(batch), began_ns, ended_ns)
        self._model_metrics.add(batch, began_ns, took, finished)

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
    # A loop that is closed has nobody left to answer, and closes whenever it likes.
    with contextlib.suppress(RuntimeError):
        job.done.get_loop().call_soon_threadsafe(call, *arguments)
