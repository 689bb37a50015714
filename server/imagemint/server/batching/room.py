"""Decides which jobs may enter a queue, and keeps waiting jobs in order.

A queue holds a limited number of images. These are the rules:

- A single call without room is refused. So is the first job of a stream.
- Later jobs of streams wait, first come, first served. The room that they wait for counts as taken:
  a single call is refused instead of entering before them.
- Waiting streams fill at most half of the queue, so that single calls find room. A job of a stream
  counts as at most half of the queue, so that larger jobs find room too; the queue may exceed its
  limit by the images that are not counted.
- A job that a stream computes ahead of its reader enters only if no job waits and the queue is then
  at most half full.
- HIGH jobs may exceed each of these limits by an eighth of the queue.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from imagemint.server.batching.job import Job, Priority, count_images_left
from imagemint.server.batching.queue import Queue

# HIGH jobs may exceed the limits by this share of the queue.
_RESERVED_SHARE = 8


@dataclass(eq=False, slots=True)
class Waiter:
    """A job that waits for room.

    Attributes:
        job: the job.
        admitted: resolves when the job is queued; fails if it can never be queued.
    """

    job: Job
    admitted: asyncio.Future[None] = field(repr=False)


class Room:
    """The room in one queue. Not thread-safe: the owner holds the lock of the queue.

    Args:
        queue: the queue.
        limit: most images that may wait in the queue; HIGH jobs may exceed it by an eighth.
    """

    def __init__(self, queue: Queue, limit: int) -> None:
        self._queue = queue
        self._limit = limit
        self._stream_limit = max(1, limit // 2)
        self._waiters: deque[Waiter] = deque()
        self._waiting_images = 0

    def __bool__(self) -> bool:
        """Returns whether any job waits for room."""
        return bool(self._waiters)

    def count_excess(self, job: Job) -> int:
        """Returns by how many images a job is too large to enter now; 0 or less if it may enter."""
        if not self._waiters and self._queue.images + job.count <= self._limit:
            return 0  # whatever the rules for streams do not count
        size = self._count_images(job, job.count)
        return self._singles + self._streamed + self._claimed + size - self._get_limit(job)

    def fits_ahead(self, job: Job) -> bool:
        """Returns whether a job that a stream computes ahead of its reader may enter."""
        most = self._stream_limit + self._get_reserve(job)
        return not self._waiters and self._queue.images + job.count <= most

    def wait(self, job: Job, admitted: asyncio.Future[None]) -> Waiter:
        """Adds a job to the waiting jobs."""
        waiter = Waiter(job, admitted)
        self._waiters.append(waiter)
        self._waiting_images += self._count_images(job, job.count)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Removes a job from the waiting jobs, if it is one of them."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self._waiting_images -= self._count_images(waiter.job, waiter.job.count)

    def take_next(self, *, any_size: bool = False) -> Waiter | None:
        """Removes and returns the first waiting job that may enter now; None if there is none.

        A HIGH job may enter before an earlier NORMAL job, into the room that is reserved for it.

        Args:
            any_size: whether every job may enter.
        """
        before = 0
        for waiter in self._waiters:
            if any_size or self._fits_behind(waiter.job, before):
                self.leave(waiter)
                return waiter
            before += self._count_images(waiter.job, waiter.job.count)
            if before > 2 * self._limit:  # no later job fits
                return None
        return None

    @property
    def _singles(self) -> int:
        """Number of queued images of single calls."""
        return self._queue.images - self._queue.stream_images

    @property
    def _streamed(self) -> int:
        """Number of queued images of streams that count towards the limit."""
        images = self._queue.stream_images
        if images <= self._stream_limit:  # then no job exceeds the limit
            return images
        return sum(
            self._count_images(job, count_images_left(job)) for job in self._queue if job.streamed
        )

    @property
    def _claimed(self) -> int:
        """Number of images of the room that is kept for waiting jobs."""
        if not self._waiters:
            return 0
        return min(self._waiting_images, max(0, self._stream_limit - self._streamed))

    def _fits_behind(self, job: Job, before: int) -> bool:
        """Returns whether a job of a stream fits if `before` images enter before it."""
        streamed = self._streamed + before + self._count_images(job, job.count)
        return self._singles + streamed <= self._get_limit(
            job
        ) and streamed <= self._stream_limit + self._get_reserve(job)

    def _count_images(self, job: Job, images: int) -> int:
        """Returns how many of a job's images count towards the limit."""
        return min(images, self._stream_limit) if job.streamed else images

    def _get_limit(self, job: Job) -> int:
        return self._limit + self._get_reserve(job)

    def _get_reserve(self, job: Job) -> int:
        return self._limit // _RESERVED_SHARE if job.priority is Priority.HIGH else 0
