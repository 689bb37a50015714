"""The batcher: many callers' images, computed together, a batch at a time.

Greedy: an instance that is free runs what is queued, and waits for more only if asked to. The unit
is the image. A job of many images is cut into slices, and every waiting job gets a fair share of
each batch, so a large one does not hold up a small one. Because a serial's pixels do not depend on
what shares its batch, none of this shows in the answers.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from imagemint.engine.backend import Backend
from imagemint.engine.errors import BackendFailed, DeadlinePassed, Draining, QueueFull
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching.job import Job, Slice, images_left
from imagemint.server.batching.passes import hand_out, stacked_classes, stacked_truncation
from imagemint.server.batching.rate import Rate
from imagemint.server.metrics import Metrics
from imagemint.server.statistics import Account, Phases, Statistics

_log = logging.getLogger(__name__)

# Below this a batch is not split over idle instances: the fixed cost of a pass would outweigh it.
_SMALLEST_SHARE = 8
_RETRY_DELAY_S = (0.05, 10.0)


class Batcher:
    """Queue and instances of one version of a model.

    Args:
        spec: the model.
        version: its version, for labels.
        backend: what computes; called from `instances` threads at once.
        metrics: where to count.
        instances: batches that run side by side.
        max_batch_images: images in one batch at most.
        max_queue_images: images that may wait.
        batch_delay_s: time a batch with room may wait for more; 0 never waits.
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
    ) -> None:
        self._spec = spec
        self._backend = backend
        self._max_batch = max_batch_images
        self._max_queue = max_queue_images
        self.instances = instances
        self.delay_s = batch_delay_s
        self.statistics = Statistics()
        labels = (spec.name, str(version))
        self._labels = labels
        self._images = metrics.images
        self._queue_wait = metrics.queue_wait.labels(*labels)
        self._batch_images = metrics.batch_images.labels(*labels)
        self._inference = metrics.inference_duration.labels(*labels)
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._queued = 0
        self._idle = 0
        self._closed = False
        self._drain_rate = Rate()
        self._room: deque[asyncio.Future[None]] = deque()
        metrics.watch_queue(spec.name, version, lambda: self._queued)
        metrics.queue_limit_images.labels(*labels).set(max_queue_images)
        self._threads = [
            threading.Thread(target=self._work, name=f"{spec.name}-{version}-{number}", daemon=True)
            for number in range(instances)
        ]
        for thread in self._threads:
            thread.start()

    # --- the event loop's side ------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queues a job of the running event loop; ``job.done`` resolves when it is whole.

        ``job.done`` fails with DeadlinePassed or BackendFailed.

        Raises:
            QueueFull: there is no room for so many images now.
            Draining: the batcher is closed.
        """
        if not self._queue_up(job, self._max_queue):
            self.statistics.add_failure(0)
            with self._changed:
                raise QueueFull(self._spec.name, self._retry_delay_s(job.count))

    def submit_ahead(self, job: Job) -> bool:
        """Queues a job that nobody waits for yet, and tells whether it did.

        It leaves half of the queue to those who come anew: a few streams, reading ahead, would
        otherwise fill it for good.

        Raises:
            Draining: the batcher is closed.
        """
        return self._queue_up(job, self._max_queue // 2)

    async def submit_when_room(self, job: Job) -> None:
        """Queues a job as `submit` does, waiting for room instead of failing for want of it."""
        while not self._queue_up(job, self._max_queue):
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room

    def _queue_up(self, job: Job, most: int) -> bool:
        """Queues a job unless more than `most` images would then wait."""
        job.done = asyncio.get_running_loop().create_future()
        job.images = np.empty(
            (job.count, self._spec.height, self._spec.width, self._spec.channels), np.uint8
        )
        with self._changed:
            if self._closed:
                raise Draining(1.0)
            if self._queued + job.count > most:
                return False
            job.accepted_ns = time.perf_counter_ns()
            self._jobs.append(job)
            self._queued += job.count
            self._changed.notify()  # one wakes the next while there is work for it
        return True

    def drop(self, job: Job) -> None:
        """Takes back what of a job has not begun; nothing is computed for a caller who left.

        On the event loop, for a job that was submitted, whatever became of it since; nobody waits
        for it any more, and `job.done` is cancelled if it is still open.
        """
        if not job.done.cancel() and not job.done.cancelled():
            job.done.exception()  # seen: asyncio would complain of an error that nobody asked for
        with self._changed:
            if job._dropped or job._taken == job.count:  # noqa: SLF001 - one unit with Job
                return
            self._forget(job)
            self._jobs.remove(job)
        self._admit()

    def close(self, timeout_s: float | None = None) -> bool:
        """Finishes what is queued and ends the instances; from now on `submit` refuses.

        Args:
            timeout_s: time to wait for the end; None waits as long as it takes.

        Returns:
            Whether all instances have ended; False leaves them to end by themselves.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if timeout_s is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _retry_delay_s(self, count: int) -> float:
        """Time until `count` images should find room, from the measured drain rate."""
        least, most = _RETRY_DELAY_S
        rate = self._drain_rate.per_s
        if rate == 0:
            return 1.0
        return min(max((self._queued + count - self._max_queue) / rate, least), most)

    def _settle(self, jobs: list[Job], error: Exception | None) -> None:
        """Resolves jobs and wakes those who wait for room; on the event loop."""
        for job in jobs:
            if not job.done.done():
                if error is None:
                    job.done.set_result(None)
                else:
                    job.done.set_exception(error)
        self._admit()

    def _admit(self) -> None:
        """Lets all who wait for room try again, those who came first first."""
        while self._room:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)

    # --- the instances' side --------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            self._compute(batch)

    def _take(self) -> list[Slice] | None:
        """Waits for work and returns a batch of it; None when closed and empty."""
        with self._changed:
            self._idle += 1
            try:
                while True:
                    self._drop_late()
                    if self._jobs and not self._worth_waiting():
                        batch = self._cut(self._share())
                        if self._jobs:
                            self._changed.notify()
                        return batch
                    if self._closed and not self._jobs:
                        return None
                    self._changed.wait(self._patience_s() if self._jobs else None)
            finally:
                self._idle -= 1

    def _drop_late(self) -> None:
        now = time.monotonic()
        late = [job for job in self._jobs if job.deadline <= now]
        if not late:
            return
        for job in late:
            self._forget(job)
            self.statistics.add_failure(time.perf_counter_ns() - job.accepted_ns)
        self._jobs = deque(job for job in self._jobs if not job._dropped)  # noqa: SLF001 - one unit with Job
        _on_loop_of(late[0], self._settle, late, DeadlinePassed())

    def _forget(self, job: Job) -> None:
        job._dropped = True  # noqa: SLF001 - one unit with Job
        self._queued -= job.count - job._taken  # noqa: SLF001 - one unit with Job

    def _patience_s(self) -> float:
        """Time that the queue may still wait for company; none once a job in it has begun."""
        if any(job._taken for job in self._jobs):  # noqa: SLF001 - one unit with Job
            return 0.0
        oldest = self._jobs[0].accepted_ns  # only jobs that have begun lose their place
        return self.delay_s - (time.perf_counter_ns() - oldest) / 1e9

    def _worth_waiting(self) -> bool:
        return self._queued < self._max_batch and not self._closed and self._patience_s() > 0

    def _share(self) -> int:
        """Images for this batch: the queue, divided among the instances that are free now."""
        fair = -(-self._queued // max(self._idle, 1))
        return min(self._max_batch, max(fair, _SMALLEST_SHARE))

    def _cut(self, room: int) -> list[Slice]:
        """Takes up to `room` images, shared evenly among the jobs that have waited longest.

        What a small job leaves of its share goes to the larger ones; a job that is not exhausted
        goes to the end of the queue.
        """
        chosen = [self._jobs.popleft() for _ in range(min(room, len(self._jobs)))]
        sizes = {}
        unserved = len(chosen)
        for job in sorted(chosen, key=images_left):
            sizes[job] = min(images_left(job), room // unserved)
            room -= sizes[job]
            unserved -= 1
        return [self._slice(job, sizes[job]) for job in chosen]

    def _slice(self, job: Job, size: int) -> Slice:
        start = job._taken  # noqa: SLF001 - one unit with Job
        job._taken += size  # noqa: SLF001 - one unit with Job
        self._queued -= size
        if images_left(job):
            self._jobs.append(job)
        if not start:
            job.started_ns = time.perf_counter_ns()
            self._queue_wait.observe((job.started_ns - job.accepted_ns) / 1e9)
        return Slice(job, start, start + size)

    def _compute(self, batch: list[Slice]) -> None:
        began = time.perf_counter_ns()
        try:
            z = np.concatenate([piece.job.latents(piece.start, piece.stop) for piece in batch])
            class_id = stacked_classes(batch)
            truncation = stacked_truncation(batch)
            before = time.perf_counter_ns()
            images = self._backend.run(z, class_id, truncation)
            after = time.perf_counter_ns()
            hand_out(batch, images)
            took = Phases(before - began, after - before, time.perf_counter_ns() - after)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises, the callers must hear
            _log.exception("batch of %d images failed", sum(p.stop - p.start for p in batch))
            self._fail(batch, error)
            return
        self._batch_images.observe(len(images))
        self._inference.observe((after - before) / 1e9)
        self._finish(batch, len(images), began, took)

    def _finish(self, batch: list[Slice], count: int, began_ns: int, took: Phases) -> None:
        finished = []
        now = time.perf_counter_ns()
        with self._changed:
            for piece in batch:
                job = piece.job
                job.input_ns += took.input_ns
                job.inference_ns += took.inference_ns
                job.output_ns += took.output_ns
                job._computed += piece.stop - piece.start  # noqa: SLF001 - one unit with Job
                if job._computed == job.count and not job._dropped:  # noqa: SLF001 - one unit with Job
                    job.finished_ns = now
                    finished.append(job)
            self._drain_rate.add(count, began_ns, now)
        self.statistics.add_batch(count, took, [_account(job) for job in finished])
        for job in finished:
            self._count(job)
        _on_loop_of(batch[0].job, self._settle, finished, None)

    def _fail(self, batch: list[Slice], cause: Exception) -> None:
        error = BackendFailed(f"model {self._spec.name!r} failed to compute a batch")
        error.__cause__ = cause
        jobs = [piece.job for piece in batch]
        with self._changed:
            for job in jobs:
                if not job._dropped:  # noqa: SLF001 - one unit with Job
                    self.statistics.add_failure(time.perf_counter_ns() - job.accepted_ns)
                if job in self._jobs:
                    self._jobs.remove(job)
                    self._forget(job)
                job._dropped = True  # noqa: SLF001 - one unit with Job
        _on_loop_of(batch[0].job, self._settle, jobs, error)

    def _count(self, job: Job) -> None:
        if job.class_id is None:
            self._images.labels(*self._labels, "").inc(job.count)
            return
        for class_id, count in enumerate(np.bincount(job.class_id).tolist()):
            if count:
                label = self._spec.class_labels[class_id]
                self._images.labels(*self._labels, label).inc(count)


def _on_loop_of(job: Job, call: Callable[..., None], *arguments: object) -> None:
    # A loop that is closed has nobody left to answer, and closes whenever it likes.
    with contextlib.suppress(RuntimeError):
        job.done.get_loop().call_soon_threadsafe(call, *arguments)


def _account(job: Job) -> Account:
    return Account(
        job.finished_ns - job.accepted_ns, Phases(job.input_ns, job.inference_ns, job.output_ns)
    )
