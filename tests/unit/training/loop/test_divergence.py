"""Tests of the divergence watch, which separates exploding losses from moving ones."""

import numpy as np
import pytest

from imagemint.training.errors import Diverged
from imagemint.training.loop.divergence import LossWatch
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.state import TrainingState

FACTOR = Schedule().divergence_factor


@pytest.fixture
def judged(tmp_path):
    """A function that checks the D losses of some steps after the rows of a log."""

    def judge(rows, steps):
        log = [{"images": n, "loss_D": x, "loss_G": 0.1} for n, x in enumerate(rows)]
        state = TrainingState(None, None, None, None, None)
        state.unlogged = {"loss_D": list(steps), "loss_G": [0.1] * len(steps)}
        LossWatch(tmp_path, log, FACTOR).check(state)

    return judge


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        ([0.7] * 5, [150.0] * 4),
        ([-50.0] * 5, [-6e3] * 4),
        ([1.0, 10.0, 100.0, 1e3, 1e4], [1e5] * 4),
        ([1e7] * 9, [1e7] * 4),
        ([], [2e5] * 4),
    ],
    ids=["sudden", "negative", "steady growth", "huge for long", "huge from the start"],
)
def test_exploding_losses_are_detected(judged, rows, steps):
    """Losses far above the usual ones, or above any plausible value, are a divergence."""
    with pytest.raises(Diverged, match="usual; no checkpoint was saved yet; a smaller --learning"):
        judged(rows, steps)


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        ([0.7] * 5, [60.0] * 4),
        ([0.7] * 5, [0.7, 0.8, 1e9, 0.7]),
        (list(np.linspace(-1, -5_000, 50)), [-5_100.0] * 4),
        ([0.01] * 5, [3.0] * 4),
        ([], [9e4] * 4),
    ],
    ids=["D wins", "one wild step", "drift", "small ones grow", "large at first"],
)
def test_moving_losses_are_accepted(judged, rows, steps):
    """Losses as healthy runs have them are no divergence."""
    judged(rows, steps)


def test_rows_of_this_run_count(tmp_path):
    """Rows that the run adds change the usual loss."""
    watch = LossWatch(tmp_path, [], FACTOR)
    state = TrainingState(None, None, None, None, None)
    state.unlogged = {"loss_D": [150.0], "loss_G": [0.1]}
    watch.check(state)  # without rows, 150 is not yet too large
    for _ in range(5):
        watch.add({"loss_D": 0.7, "loss_G": 0.1})
    with pytest.raises(Diverged):
        watch.check(state)
