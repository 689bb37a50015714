"""Runs share the gate; a capture has it to itself."""

import threading

import pytest
from held_backend import WAIT_S

from imagemint.engine.onnx.capture_lock import Gate


def started(work):
    """A thread that does it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_sharers_go_together():
    """Two are inside at once."""
    gate, meeting = Gate(), threading.Barrier(2, timeout=WAIT_S)

    def enter():
        with gate.shared():
            meeting.wait()

    threads = [started(enter) for _ in range(2)]
    for thread in threads:
        thread.join(WAIT_S)
    assert not meeting.broken


def settles(gate, threads, entered):
    """Waits until so many threads wait at the gate, or one of them has entered."""
    moment = threading.Event()
    while len(gate._changed._waiters) < threads and not entered:
        moment.wait(0.001)


@pytest.mark.parametrize(
    ("first", "second"),
    [(Gate.alone, Gate.shared), (Gate.alone, Gate.alone), (Gate.shared, Gate.alone)],
    ids=["shared waits for alone", "alone waits for alone", "alone waits for shared"],
)
def test_alone_is_alone(first, second):
    """Neither enters while the other is inside, and it does enter afterwards."""
    gate, entered = Gate(), []

    def enter():
        with second(gate):
            entered.append(second)

    with first(gate):
        waiting = started(enter)
        settles(gate, 1, entered)
        assert not entered
    waiting.join(WAIT_S)
    assert entered


def test_newcomers_do_not_delay_alone():
    """A sharer who comes while another waits to be alone enters after it."""
    gate, order = Gate(), []

    def lonely():
        with gate.alone():
            order.append("alone")

    def late():
        with gate.shared():
            order.append("shared")

    with gate.shared():
        loner = started(lonely)
        settles(gate, 1, order)
        newcomer = started(late)
        settles(gate, 2, order)
        assert not order
    loner.join(WAIT_S)
    newcomer.join(WAIT_S)
    assert order == ["alone", "shared"]
