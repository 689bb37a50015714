"""The queue: two levels, of which neither starves, and fairness within each."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imagemint.server.batching.job import Job, Priority, count_images_left
from imagemint.server.batching.queue import NORMAL_SHARE, STREAM_SHARE, Queue

HIGH, NORMAL = Priority.HIGH, Priority.NORMAL
COUNTS = st.lists(st.integers(1, 40), max_size=12)


def job(count, priority=NORMAL):
    """A job that nobody computes."""
    return Job(count, np.empty((count, 1), np.float32), priority=priority)


def filled(high, normal):
    """A queue of jobs of so many images, and the jobs."""
    jobs = [job(count, HIGH) for count in high] + [job(count) for count in normal]
    queue = Queue()
    for each in jobs:
        queue.append(each)
    return queue, jobs


def taken(batch, priority):
    """Images of a level in a batch."""
    return sum(piece.stop - piece.start for piece in batch if piece.job.priority is priority)


def test_high_goes_first():
    """All but an eighth of a batch is HIGH while enough waits, whoever came first."""
    queue, _ = filled([100], [100])
    batch = queue.cut(64)
    assert (taken(batch, HIGH), taken(batch, NORMAL)) == (56, 8)


def test_small_batches_owe_the_share():
    """Where an eighth of a batch is less than an image, NORMAL has one in every eighth place."""
    queue, _ = filled([100], [100])
    found = [taken(queue.cut(1), NORMAL) for _ in range(2 * NORMAL_SHARE)]
    assert found == 2 * [*[0] * (NORMAL_SHARE - 1), 1]


def test_stream_beside_many_single_calls():
    """One job of a stream beside 200 single calls has a quarter of each batch, not a 200th."""
    queue = Queue()
    for _ in range(200):
        queue.append(job(1))
    chunk = job(512)
    chunk.streamed = True
    queue.append(chunk)
    for taken_so_far in (8, 16, 24):
        assert len(queue.cut(32)) == 25
        assert chunk.taken == taken_so_far
    assert [bool(queue.cut(1)[0].job.streamed) for _ in range(4)].count(True) == 4 // STREAM_SHARE


def test_streams_share_evenly_with_single_calls():
    """Where an even share for each job is more than a quarter, streams get that."""
    queue = Queue()
    jobs = [job(100) for _ in range(4)]
    for each in jobs:
        queue.append(each)
    streams = [job(100) for _ in range(4)]
    for each in streams:
        each.streamed = True
        queue.append(each)
    queue.cut(64)
    assert [each.taken for each in (*jobs, *streams)] == [8] * 8
    for each in jobs:
        queue.remove(each)
    assert sum(piece.stop - piece.start for piece in queue.cut(64)) == 64
    assert (queue.images, queue.stream_images) == (304, 304)


def test_credit_is_not_saved():
    """What NORMAL was owed while it waited is forgotten with its last image."""
    queue, _ = filled([7, 20], [1])
    queue.cut(7)
    queue.remove(next(each for each in queue if each.priority is NORMAL))
    queue.cut(4)
    queue.append(job(5))
    assert taken(queue.cut(1), NORMAL) == 0


@given(high=COUNTS, normal=COUNTS, rooms=st.lists(st.integers(1, 70), min_size=1, max_size=60))
def test_every_cut_is_full_and_fair_to_both(high, normal, rooms):
    """A batch is as full as the queue allows; NORMAL has its eighth, HIGH the rest."""
    queue, _ = filled(high, normal)
    both_waited = due = 0
    for room in rooms:
        waiting = {
            level: sum(count_images_left(j) for j in queue if j.priority is level)
            for level in Priority
        }
        batch = queue.cut(room)
        size = sum(waiting.values())
        high_taken, normal_taken = taken(batch, HIGH), taken(batch, NORMAL)
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
def test_all_is_taken_once_and_in_order(high, normal, room):
    """The slices of a job follow each other without gap or overlap, and then the queue is empty."""
    queue, jobs = filled(high, normal)
    ends = dict.fromkeys(jobs, 0)
    while queue:
        for piece in queue.cut(room):
            assert piece.start == ends[piece.job] < piece.stop
            ends[piece.job] = piece.stop
    assert ends == {each: each.count for each in jobs}
    assert (queue.images, list(queue)) == (0, [])


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=12), room=st.integers(1, 70))
def test_no_job_gets_more_than_another_wants(counts, room):
    """A share is larger than another by more than one only where the other is exhausted."""
    queue, jobs = filled([], counts)
    queue.cut(room)
    begun = [each for each in jobs if each.taken]
    for each in begun:
        for other in begun:
            assert each.taken <= other.taken + 1 or not count_images_left(other)


def test_removed_job_leaves_no_trace():
    """Of what has begun, the rest."""
    queue, (first, second) = filled([], [10, 10])
    queue.cut(6)
    queue.remove(first)
    assert (queue.images, list(queue), first in queue) == (7, [second], False)


def test_patience_ends_with_haste_or_a_beginning():
    """A queue waits for company while nothing in it is HIGH and nothing has begun."""
    queue, (first,) = filled([], [10])
    first.accepted_ns = 5
    assert queue.can_wait
    assert queue.oldest_ns == 5
    streamed = job(1)
    streamed.streamed, streamed.accepted_ns = True, 3
    queue.append(streamed)
    assert queue.oldest_ns == 3
    hasty = job(1, HIGH)
    queue.append(hasty)
    assert not queue.can_wait
    queue.remove(hasty)
    queue.cut(1)
    assert not queue.can_wait
