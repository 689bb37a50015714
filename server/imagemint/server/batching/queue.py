"""Decides which images go into the next batch.

**Two priorities.** HIGH jobs go first. While NORMAL jobs wait beside them, one image in eight is
NORMAL: at least 8 of a batch of 64, one of a batch of 8, and one in every second batch of 4.

**Streams and single calls.** Within a priority, while both wait, each job of a stream gets an equal
share, and streams together get at least one image in four. Without that minimum, a stream beside
200 single callers would get one image in 200.

**Equal shares.** Every waiting job gets an equal share of each batch. Larger jobs get what a small
job leaves of its share. One image is therefore in the next batch, even if a large job queued
thousands before it.

Images that a share does not use go to the others, so a batch is as full as the queue allows.
"""

import math
from collections import deque
from collections.abc import Iterator

from imagemint.server.batching.job import Job, Priority, Slice, count_images_left

NORMAL_SHARE = 8
"""One image in this many is NORMAL while both priorities wait."""
STREAM_SHARE = 4
"""At least one image in this many belongs to a stream while streams and single calls wait."""


class Queue:
    """Jobs with images that no batch has taken. Not thread-safe: the owner holds a lock.

    Attributes:
        images: number of images that wait.
        stream_images: number of images of streams that wait.
        next_deadline: a `time.monotonic` value before which no deadline passes. Checking every job
            for every batch would cost too much.
    """

    def __init__(self) -> None:
        self.images = 0
        self.stream_images = 0
        self.next_deadline = math.inf
        self._high = _Level()
        self._normal = _Level()
        self._lines = (
            *(self._high.singles, self._high.streams),
            *(self._normal.singles, self._normal.streams),
        )
        self._normal_minimum = _Minimum(NORMAL_SHARE)

    def __bool__(self) -> bool:
        """Returns whether any image waits."""
        return self.images > 0

    def __iter__(self) -> Iterator[Job]:
        """Yields the waiting jobs, HIGH jobs first."""
        for line in self._lines:
            yield from line.jobs

    def __contains__(self, job: Job) -> bool:
        return job in self._find_line(job).jobs

    @property
    def is_shared(self) -> bool:
        """Whether several jobs wait."""
        high, normal = self._high, self._normal
        singles = len(high.singles.jobs) + len(normal.singles.jobs)
        return singles + len(high.streams.jobs) + len(normal.streams.jobs) > 1

    @property
    def can_wait(self) -> bool:
        """Whether the queue may wait for a fuller batch: no job is HIGH, and no job has begun."""
        return not self._high.images and not any(job.taken for job in self)

    @property
    def oldest_ns(self) -> int:
        """Acceptance time of the oldest job, if `can_wait`; the queue is not empty."""
        # Only a job that has begun loses its place, so the first job of a line is its oldest.
        lines = (self._normal.singles, self._normal.streams)
        return min(line.jobs[0].accepted_ns for line in lines if line.jobs)

    def append(self, job: Job) -> None:
        """Queues a job whose images no batch has taken."""
        line = self._find_line(job)
        line.jobs.append(job)
        line.images += job.count
        self.images += job.count
        if job.streamed:
            self.stream_images += job.count
        self.next_deadline = min(self.next_deadline, job.deadline)

    def remove(self, job: Job) -> None:
        """Removes a waiting job; batches with some of its images go on."""
        line = self._find_line(job)
        line.jobs.remove(job)
        left = count_images_left(job)
        line.images -= left
        self.images -= left
        if job.streamed:
            self.stream_images -= left

    def find_late(self, now: float) -> list[Job]:
        """Returns the jobs whose deadline has passed, by `time.monotonic`; they stay queued."""
        if now < self.next_deadline:
            return []
        late = [job for job in self if job.deadline <= now]
        self.next_deadline = min(
            (job.deadline for job in self if job.deadline > now), default=math.inf
        )
        return late

    def cut(self, room: int) -> list[Slice]:
        """Takes up to `room` images. A job with images left goes to the end of its line."""
        if room >= self.images:  # everything: no shares to compute
            batch = [piece for line in self._lines if line.jobs for piece in line.cut(line.images)]
        else:
            high, normal = self._high, self._normal
            part = self._normal_minimum.grant(room, normal.images, high.images)
            batch = [*high.cut(room - part), *normal.cut(part)]
        for job, start, stop in batch:
            self.images -= stop - start
            if job.streamed:
                self.stream_images -= stop - start
        return batch

    def _find_line(self, job: Job) -> "_Line":
        level = self._high if job.priority is Priority.HIGH else self._normal
        return level.streams if job.streamed else level.singles


class _Minimum:
    """Guarantees a part of the queue one image in `share` while another part waits too."""

    __slots__ = ("_credit", "_share")

    def __init__(self, share: int) -> None:
        self._share = share
        # The fraction of an image that is due, multiplied by `share`.
        self._credit = 0

    def grant(self, room: int, own: int, others: int, even: int = 0) -> int:
        """Returns how many of `room` images this part gets.

        Args:
            room: number of images in the batch; at most `own` + `others`.
            own: number of waiting images of this part.
            others: number of waiting images of the other part.
            even: number of images that this part gets in any case, if it has them.
        """
        if not own or not others:
            self._credit = 0
            return min(room, own)
        due, self._credit = divmod(self._credit + room, self._share)
        return min(own, max(due, even, room - others))


class _Line:
    """Jobs that take turns, and the number of their images."""

    __slots__ = ("images", "jobs")

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.images = 0

    def cut(self, room: int) -> list[Slice]:
        """Takes exactly `room` images, at most all of them."""
        if not room:
            return []
        jobs = self.jobs
        if room == self.images:  # the whole line: no shares to compute
            chosen = list(jobs)
            jobs.clear()
            return [self._slice(job, count_images_left(job)) for job in chosen]
        chosen = [jobs.popleft() for _ in range(min(room, len(jobs)))]
        share, rest = _divide([count_images_left(job) for job in chosen], room)
        batch = []
        for job in chosen:
            size = min(count_images_left(job), share)
            if rest and size < count_images_left(job):
                size, rest = size + 1, rest - 1
            batch.append(self._slice(job, size))
        return batch

    def _slice(self, job: Job, size: int) -> Slice:
        start = job.taken
        job.taken += size
        self.images -= size
        if count_images_left(job):
            self.jobs.append(job)
        return Slice(job, start, start + size)


def _divide(counts: list[int], room: int) -> tuple[int, int]:
    """Returns the equal share of `room` of jobs with these counts, and what is left over.

    A job that has less than the share takes all that it has, and the others share the difference.
    The counts add up to at least `room`.
    """
    for i, count in enumerate(sorted(counts)):
        unserved = len(counts) - i
        if count > room // unserved:
            return divmod(room, unserved)
        room -= count
    return max(counts), 0


class _Level:
    """The jobs of one priority, in a line for single calls and a line for streams."""

    __slots__ = ("_stream_minimum", "singles", "streams")

    def __init__(self) -> None:
        self.singles = _Line()
        self.streams = _Line()
        self._stream_minimum = _Minimum(STREAM_SHARE)

    @property
    def images(self) -> int:
        return self.singles.images + self.streams.images

    @property
    def size(self) -> int:
        """Number of jobs."""
        return len(self.singles.jobs) + len(self.streams.jobs)

    def cut(self, room: int) -> list[Slice]:
        """Takes exactly `room` images, at most all of them."""
        if not room:
            return []
        singles, streams = self.singles, self.streams
        even = room * len(streams.jobs) // self.size
        part = self._stream_minimum.grant(room, streams.images, singles.images, even)
        return [*singles.cut(room - part), *streams.cut(part)]
