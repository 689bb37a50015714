"""Who gets into the next batch.

**Two levels.** Jobs of HIGH priority go first. NORMAL ones are not starved: while both wait, every
eighth image is theirs. A batch of 64 has at least 8 NORMAL images, one of 8 has one, and of batches
of four every second one has one. What a level leaves of its part goes to the other.

**Fair within a level.** Every waiting job gets an even share of each batch, and what a small job
leaves of its share goes to the larger ones, so that one image is in the next batch although a
large job queued thousands before it.
"""

import math
from collections import deque
from collections.abc import Iterator

from imagemint.server.batching.job import Job, Priority, Slice, images_left

NORMAL_SHARE = 8
"""One image in so many is NORMAL while both levels wait."""


class _Level:
    """The jobs of one priority, and their images."""

    __slots__ = ("images", "jobs")

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.images = 0


class Queue:
    """Jobs with images that no batch has taken. Not thread-safe: its owner holds a lock.

    Attributes:
        images: images that wait.
    """

    def __init__(self) -> None:
        self.images = 0
        self._high = _Level()
        self._normal = _Level()
        # Owed to NORMAL, in NORMAL_SHAREs of an image, and below one of them.
        self._credit = 0
        # No job is late before: to look at each, for every batch, would cost more than the batch.
        self._next_deadline = math.inf

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return self.images > 0

    def __iter__(self) -> Iterator[Job]:
        """The jobs that wait, HIGH ones first."""
        yield from self._high.jobs
        yield from self._normal.jobs

    def __contains__(self, job: Job) -> bool:
        return job in self._level(job).jobs

    @property
    def is_shared(self) -> bool:
        """Whether several jobs wait."""
        return len(self._high.jobs) + len(self._normal.jobs) > 1

    @property
    def patient(self) -> bool:
        """Whether company may be waited for: nothing is HIGH, and nothing has begun."""
        return not self._high.images and not any(job.taken for job in self)

    @property
    def oldest_ns(self) -> int:
        """When the first of a patient queue was accepted; it is not empty."""
        return self._normal.jobs[0].accepted_ns  # only what has begun loses its place

    def append(self, job: Job) -> None:
        """Queues a job, of which nothing has been taken."""
        level = self._level(job)
        level.jobs.append(job)
        level.images += job.count
        self.images += job.count
        self._next_deadline = min(self._next_deadline, job.deadline)

    def remove(self, job: Job) -> None:
        """Takes out a job that waits; what has begun of it goes on."""
        level = self._level(job)
        level.jobs.remove(job)
        level.images -= images_left(job)
        self.images -= images_left(job)

    def late(self, now: float) -> list[Job]:
        """The jobs whose deadline has passed, by `time.monotonic`; they stay in the queue."""
        if now < self._next_deadline:
            return []
        late = [job for job in self if job.deadline <= now]
        self._next_deadline = min(
            (job.deadline for job in self if job.deadline > now), default=math.inf
        )
        return late

    def cut(self, room: int) -> list[Slice]:
        """Takes up to `room` images; a job that is not exhausted goes to the end of its level."""
        room = min(room, self.images)
        normal = self._normal_share(room)
        if not self._high.images:
            return self._cut(self._normal, normal)
        return [*self._cut(self._high, room - normal), *self._cut(self._normal, normal)]

    def _level(self, job: Job) -> _Level:
        return self._high if job.priority is Priority.HIGH else self._normal

    def _normal_share(self, room: int) -> int:
        high, normal = self._high.images, self._normal.images
        if not high or not normal:
            self._credit = 0
            return min(room, normal)
        guaranteed, self._credit = divmod(self._credit + room, NORMAL_SHARE)
        return min(normal, max(guaranteed, room - high))

    def _cut(self, level: _Level, room: int) -> list[Slice]:
        jobs = level.jobs
        if room == level.images:  # all of it: no shares to work out
            chosen = list(jobs)
            jobs.clear()
            return [self._slice(level, job, images_left(job)) for job in chosen]
        chosen = [jobs.popleft() for _ in range(min(room, len(jobs)))]
        sizes = {}
        unserved = len(chosen)
        for job in sorted(chosen, key=images_left):
            sizes[job] = min(images_left(job), room // unserved)
            room -= sizes[job]
            unserved -= 1
        return [self._slice(level, job, sizes[job]) for job in chosen]

    def _slice(self, level: _Level, job: Job, size: int) -> Slice:
        start = job.taken
        job.taken += size
        level.images -= size
        self.images -= size
        if images_left(job):
            level.jobs.append(job)
        return Slice(job, start, start + size)
