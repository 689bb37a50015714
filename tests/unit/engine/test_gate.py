"""Those who share go together, and who must be alone is."""

import threading

from held_backend import WAIT_S

from imagemint.engine._gate import Gate


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


def test_alone_is_alone():
    """Who is alone has nobody beside him, sharer or loner, however many try."""
    gate, inside, worst = Gate(), [0], []

    def enter(lonely):
        for _ in range(200):
            with gate.alone() if lonely else gate.shared():
                inside[0] += 1
                if lonely:
                    worst.append(inside[0])
                inside[0] -= 1

    threads = [started(lambda lonely=lonely: enter(lonely)) for lonely in (True, True, False)]
    for thread in threads:
        thread.join(WAIT_S)
    assert set(worst) == {1}


def test_loner_is_not_kept_waiting_by_newcomers():
    """A sharer who comes after a loner waits for him."""
    gate, order, entered = Gate(), [], threading.Event()

    def lonely():
        with gate.alone():
            order.append("alone")

    def late():
        with gate.shared():
            order.append("shared")

    with gate.shared():
        loner = started(lonely)
        while not gate._alone:
            entered.wait(0.001)
        newcomer = started(late)
        assert not order
    loner.join(WAIT_S)
    newcomer.join(WAIT_S)
    assert order == ["alone", "shared"]
