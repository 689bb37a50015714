"""Tests of the end by Ctrl-C and SIGTERM, with signals to this process."""

import signal

import pytest

from imagemint.dataset.interrupts import Terminated, hold_signals, raise_on_sigterm


def test_second_sigterm_does_not_end_the_cleanup():
    """A supervisor may send SIGTERM again while a run deletes its partial files."""
    before, steps = signal.getsignal(signal.SIGTERM), []

    def run():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            steps.append("cleaned")

    with pytest.raises(Terminated), raise_on_sigterm():
        run()
    assert steps == ["cleaned"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_error_without_a_signal_is_kept():
    """An error is an interruption only if it replaces one."""
    with pytest.raises(ValueError, match="mine"), raise_on_sigterm():
        raise ValueError("mine")

    def run():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ValueError("of the cleanup")

    with pytest.raises(Terminated), raise_on_sigterm():
        run()


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_held_signal_arrives_at_the_end(number, raised):
    """A process that is being started is not left by half."""
    steps = []

    def start():
        with hold_signals():
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            signal.raise_signal(number)
            steps.append("started")

    with pytest.raises(raised) as caught, raise_on_sigterm():
        start()
    assert caught.type is raised
    assert steps == ["started"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
