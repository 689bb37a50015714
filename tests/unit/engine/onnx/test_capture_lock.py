"""Tests of imagemint.engine.onnx.capture_lock: runs share the lock, and a capture is exclusive."""

import threading

import pytest
from held_backend import WAIT_S

from imagemint.engine.onnx.capture_lock import Gate


def start_thread(work):
    """Starts a daemon thread that calls `work`, and returns it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_shared_holders_run_in_parallel():
    """Two threads can hold the lock in shared mode at once."""
    gate, meeting = Gate(), threading.Barrier(2, timeout=WAIT_S)

    def enter():
        with gate.hold_shared():
            meeting.wait()

    threads = [start_thread(enter) for _ in range(2)]
    for thread in threads:
        thread.join(WAIT_S)
    assert not meeting.broken


def wait_until_blocked(gate, threads, entered):
    """Waits until this many threads wait for the lock, or one of them has entered."""
    moment = threading.Event()
    while len(gate._changed._waiters) < threads and not entered:
        moment.wait(0.001)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Gate.hold_exclusively, Gate.hold_shared),
        (Gate.hold_exclusively, Gate.hold_exclusively),
        (Gate.hold_shared, Gate.hold_exclusively),
    ],
    ids=["shared waits for alone", "alone waits for alone", "alone waits for shared"],
)
def test_exclusive_holder_is_alone(first, second):
    """The second thread enters only after the first one has left."""
    gate, entered = Gate(), []

    def enter():
        with second(gate):
            entered.append(second)

    with first(gate):
        waiting = start_thread(enter)
        wait_until_blocked(gate, 1, entered)
        assert not entered
    waiting.join(WAIT_S)
    assert entered


def test_exclusive_waiter_goes_before_later_sharers():
    """A thread that asks for shared mode after a waiting exclusive one enters after it."""
    gate, order = Gate(), []

    def lonely():
        with gate.hold_exclusively():
            order.append("alone")

    def late():
        with gate.hold_shared():
            order.append("shared")

    with gate.hold_shared():
        loner = start_thread(lonely)
        wait_until_blocked(gate, 1, order)
        newcomer = start_thread(late)
        wait_until_blocked(gate, 2, order)
        assert not order
    loner.join(WAIT_S)
    newcomer.join(WAIT_S)
    assert order == ["alone", "shared"]
