"""Tests of imagemint.client.prefetch."""

import threading

import pytest

from imagemint.client.prefetch import Prefetch


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_results_are_in_order(depth):
    """Results have the order of the items, whichever read ends first."""
    assert list(Prefetch(lambda item: item * 2, range(10), depth)) == list(range(0, 20, 2))


def test_reads_run_ahead_up_to_the_depth():
    """While the loop works, at most `depth` reads run."""
    begun = threading.Semaphore(0)
    started = []

    def read(item):
        started.append(item)
        begun.release()
        return item

    results = Prefetch(read, range(100), 3)
    assert next(results) == 0
    for _ in range(4):
        assert begun.acquire(timeout=60)
    assert sorted(started) == [0, 1, 2, 3]


def test_nothing_is_read_before_the_first_request():
    """An unused iterator reads nothing."""
    read = []
    Prefetch(read.append, range(3), 2)
    assert not read


def test_failed_read_raises_in_order():
    """The results before it are returned first."""
    results = Prefetch(lambda item: 1 // (2 - item), range(4), 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
