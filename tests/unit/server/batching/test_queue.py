"""Tests of the queue: two levels without starvation, and fairness within each."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imagemint.server.batching.job import Job, Priority, count_images_left
from imagemint.server.batching.queue import NORMAL_SHARE, STREAM_SHARE, Queue

HIGH, NORMAL = Priority.HIGH, Priority.NORMAL
COUNTS = st.lists(st.integers(1, 40), max_size=12)


def make_job(count, priority=NORMAL, **options):
    """Returns a job that no batcher computes."""
    return Job(count, np.empty((count, 1), np.float32), priority=priority, **options)


def fill_queue(high, normal):
    """Returns a queue of jobs with these numbers of images, and the jobs."""
    jobs = [make_job(count, HIGH) for count in high] + [make_job(count) for count in normal]
    queue = Queue()
    for job in jobs:
        queue.append(job)
    return queue, jobs


def count_taken(batch, priority):
    """Returns the number of images of a level in a batch."""
    return sum(piece.stop - piece.start for piece in batch if piece.job.priority is priority)


def test_high_jobs_go_first():
    """All but an eighth of a batch is HIGH while enough HIGH images wait."""
    queue, _ = fill_queue([100], [100])
    batch = queue.cut(64)
    assert (count_taken(batch, HIGH), count_taken(batch, NORMAL)) == (56, 8)


def test_small_batches_keep_the_normal_share():
    """If an eighth of a batch is less than an image, NORMAL gets every eighth image."""
    queue, _ = fill_queue([100], [100])
    found = [count_taken(queue.cut(1), NORMAL) for _ in range(2 * NORMAL_SHARE)]
    assert found == 2 * [*[0] * (NORMAL_SHARE - 1), 1]


def test_stream_gets_a_quarter_beside_single_calls():
    """A stream beside 200 single calls gets a quarter of each batch instead of a 200th."""
    queue = Queue()
    for _ in range(200):
        queue.append(make_job(1))
    chunk = make_job(512)
    chunk.streamed = True
    queue.append(chunk)
    for taken_so_far in (8, 16, 24):
        assert len(queue.cut(32)) == 25
        assert chunk.taken == taken_so_far
    assert [bool(queue.cut(1)[0].job.streamed) for _ in range(4)].count(True) == 4 // STREAM_SHARE


def test_streams_share_evenly_beside_few_calls():
    """If an even share per job is more than a quarter, streams get that share."""
    queue = Queue()
    jobs = [make_job(100) for _ in range(4)]
    for job in jobs:
        queue.append(job)
    streams = [make_job(100) for _ in range(4)]
    for stream in streams:
        stream.streamed = True
        queue.append(stream)
    queue.cut(64)
    assert [each.taken for each in (*jobs, *streams)] == [8] * 8
    for job in jobs:
        queue.remove(job)
    assert sum(piece.stop - piece.start for piece in queue.cut(64)) == 64
    assert (queue.images, queue.stream_images) == (304, 304)


def test_credit_is_lost_with_the_last_image():
    """The share that NORMAL has not used is forgotten when none of its images wait."""
    queue, _ = fill_queue([7, 20], [1])
    queue.cut(7)
    queue.remove(next(each for each in queue if each.priority is NORMAL))
    queue.cut(4)
    queue.append(make_job(5))
    assert count_taken(queue.cut(1), NORMAL) == 0


@given(high=COUNTS, normal=COUNTS, rooms=st.lists(st.integers(1, 70), min_size=1, max_size=60))
def test_batches_are_full_and_fair(high, normal, rooms):
    """A batch is as full as the queue allows. NORMAL gets its eighth, and HIGH the rest."""
    queue, _ = fill_queue(high, normal)
    both_waited = due = 0
    for room in rooms:
        waiting = {
            level: sum(count_images_left(j) for j in queue if j.priority is level)
            for level in Priority
        }
        batch = queue.cut(room)
        size = sum(waiting.values())
        high_taken, normal_taken = count_taken(batch, HIGH), count_taken(batch, NORMAL)
        assert high_taken + normal_taken == min(room, size)
        if not all(waiting.values()):
            both_waited = due = 0
            continue
        both_waited += min(room, size)
        due += normal_taken
        assert due >= min(both_waited // NORMAL_SHARE, due + waiting[NORMAL] - normal_taken)
        most = min(room, size) // NORMAL_SHARE + 1
        assert normal_taken <= max(most, min(room, size) - waiting[HIGH])


@given(high=COUNTS, normal=COUNTS, room=st.integers(1, 70))
def test_every_image_is_taken_once_and_in_order(high, normal, room):
    """The slices of a job are contiguous, and afterwards the queue is empty."""
    queue, jobs = fill_queue(high, normal)
    ends = dict.fromkeys(jobs, 0)
    while queue:
        for piece in queue.cut(room):
            assert piece.start == ends[piece.job] < piece.stop
            ends[piece.job] = piece.stop
    assert ends == {job: job.count for job in jobs}
    assert (queue.images, list(queue)) == (0, [])


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=12), room=st.integers(1, 70))
def test_shares_of_jobs_are_even(counts, room):
    """A job gets at most one image more than another that still has images left."""
    queue, jobs = fill_queue([], counts)
    queue.cut(room)
    begun = [job for job in jobs if job.taken]
    for each in begun:
        for other in begun:
            assert each.taken <= other.taken + 1 or not count_images_left(other)


def test_oldest_jobs_get_what_cannot_be_divided():
    """Of equal shares, the last image goes to the job that came first, so that it is complete."""
    for counts, taken in ([3, 3, 3], [3, 3, 2]), ([10, 9, 8], [3, 3, 2]), ([9, 1, 9], [4, 1, 3]):
        queue, jobs = fill_queue([], counts)
        queue.cut(8)
        assert [job.taken for job in jobs] == taken


def test_removed_job_is_forgotten():
    """The remaining images of a removed job leave the queue, even if it has started."""
    queue, (first, second) = fill_queue([], [10, 10])
    queue.cut(6)
    queue.remove(first)
    assert (queue.images, list(queue), first in queue) == (7, [second], False)


def test_each_late_job_is_found():
    """After a late job is removed, the queue finds the next one at its deadline."""
    queue = Queue()
    for deadline in (1.0, 2.0, 3.0):
        queue.append(make_job(1, deadline=deadline))
    for deadline in (1.0, 2.0, 3.0):
        (late,) = queue.find_late(deadline + 0.5)
        assert late.deadline == deadline
        queue.remove(late)


def test_queue_waits_unless_high_or_started():
    """A queue can wait for more jobs while no job in it is HIGH or has started."""
    queue, (first,) = fill_queue([], [10])
    first.accepted_ns = 5
    assert queue.can_wait
    assert queue.oldest_ns == 5
    streamed = make_job(1)
    streamed.streamed, streamed.accepted_ns = True, 3
    queue.append(streamed)
    assert queue.oldest_ns == 3
    hasty = make_job(1, HIGH)
    queue.append(hasty)
    assert not queue.can_wait
    queue.remove(hasty)
    queue.cut(1)
    assert not queue.can_wait
