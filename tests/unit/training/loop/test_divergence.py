"""Tests of the divergence watch: losses that explode differ from losses that move."""

import json

import numpy as np
import pytest

from imagemint.training.errors import Diverged
from imagemint.training.loop.divergence import LossWatch
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.state import TrainingState

FACTOR = Schedule().divergence_factor


@pytest.fixture
def judged(tmp_path):
    """Judges the losses of D of some steps, after those of the rows of a log."""

    def judge(rows, steps):
        lines = [json.dumps({"images": n, "loss_D": x, "loss_G": 0.1}) for n, x in enumerate(rows)]
        (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
        state = TrainingState(None, None, None, None, None)
        state.unlogged = {"loss_D": list(steps), "loss_G": [0.1] * len(steps)}
        LossWatch(tmp_path, FACTOR).check(state)

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
def test_explosion_is_refused(judged, rows, steps):
    """Losses far beyond what was usual, or beyond what ever is, are a divergence."""
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
def test_movement_is_none(judged, rows, steps):
    """Whatever healthy runs do is no divergence."""
    judged(rows, steps)


def test_rows_count_without_the_log(tmp_path):
    """Rows that the run adds make the usual size; the log is read once, at the start."""
    watch = LossWatch(tmp_path, FACTOR)
    state = TrainingState(None, None, None, None, None)
    state.unlogged = {"loss_D": [150.0], "loss_G": [0.1]}
    watch.check(state)  # with no rows yet, 150 is not too much
    for _ in range(5):
        watch.add({"loss_D": 0.7, "loss_G": 0.1})
    with pytest.raises(Diverged):
        watch.check(state)
