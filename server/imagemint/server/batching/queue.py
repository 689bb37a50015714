"""Who gets into the next batch.

**Two levels.** Jobs of HIGH priority go first. NORMAL ones are not starved: while both wait, every
eighth image is theirs. A batch of 64 has at least 8 NORMAL images, one of 8 has one, and of batches
of four every second one has one. What a level leaves of its part goes to the other.

**Fair within a level.** Every waiting job gets an even share of each batch, and what a small job
leaves of its share goes to the larger ones, so that one image is in the next batch although a
large job queued thousands before it.
"""

from collections import deque
from collections.abc import Iterator

from imagemint.server.batching.job import Job, Priority, Slice, images_left

NORMAL_SHARE = 8
"""One image in so many is NORMAL while both levels wait."""


class Queue:
    """Jobs with images that no batch has taken. Not thread-safe: its owner holds a lock."""

    def __init__(self) -> None:
        self._levels: dict[Priority, deque[Job]] = {level: deque() for level in Priority}
        self._images = dict.fromkeys(Priority, 0)
        # Owed to NORMAL, in NORMAL_SHAREs of an image, and below one of them.
        self._credit = 0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return self.images > 0

    def __iter__(self) -> Iterator[Job]:
        """The jobs that wait, HIGH ones first."""
        for level in Priority:
            yield from self._levels[level]

    def __contains__(self, job: Job) -> bool:
        return job in self._levels[job.priority]

    @property
    def images(self) -> int:
        """Images that wait."""
        return sum(self._images.values())

    @property
    def patient(self) -> bool:
        """Whether company may be waited for: nothing is HIGH, and nothing has begun."""
        return not self._images[Priority.HIGH] and not any(job.taken for job in self)

    @property
    def oldest_ns(self) -> int:
        """When the first of a patient queue was accepted; it is not empty."""
        return self._levels[Priority.NORMAL][0].accepted_ns  # only what has begun loses its place

    def append(self, job: Job) -> None:
        """Queues a job, of which nothing has been taken."""
        self._levels[job.priority].append(job)
        self._images[job.priority] += job.count

    def remove(self, job: Job) -> None:
        """Takes out a job that waits; what has begun of it goes on."""
        self._levels[job.priority].remove(job)
        self._images[job.priority] -= images_left(job)

    def cut(self, room: int) -> list[Slice]:
        """Takes up to `room` images; a job that is not exhausted goes to the end of its level."""
        room = min(room, self.images)
        normal = self._normal_share(room)
        return [*self._cut(Priority.HIGH, room - normal), *self._cut(Priority.NORMAL, normal)]

    def _normal_share(self, room: int) -> int:
        high, normal = self._images[Priority.HIGH], self._images[Priority.NORMAL]
        if not high or not normal:
            self._credit = 0
            return min(room, normal)
        guaranteed, self._credit = divmod(self._credit + room, NORMAL_SHARE)
        return min(normal, max(guaranteed, room - high))

    def _cut(self, level: Priority, room: int) -> list[Slice]:
        jobs = self._levels[level]
        chosen = [jobs.popleft() for _ in range(min(room, len(jobs)))]
        sizes = {}
        unserved = len(chosen)
        for job in sorted(chosen, key=images_left):
            sizes[job] = min(images_left(job), room // unserved)
            room -= sizes[job]
            unserved -= 1
        return [self._slice(job, sizes[job]) for job in chosen]

    def _slice(self, job: Job, size: int) -> Slice:
        start = job.taken
        job.taken += size
        self._images[job.priority] -= size
        if images_left(job):
            self._levels[job.priority].append(job)
        return Slice(job, start, start + size)
