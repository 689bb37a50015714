"""Whether the losses of a run have left for good what they used to be, though still finite."""

import json
from pathlib import Path

import numpy as np

from imagemint.training.checkpoints import TrainingState
from imagemint.training.errors import Diverged
from imagemint.training.inspection import REMEDY, what_is_kept

_ROWS = 3  # of the log, before which there is no telling what is usual
_LEAST, _MOST = 1.0, 1_000.0  # what passes for usual: small losses may grow, none is huge for long
_LOSSES = "loss_D", "loss_G"


def refuse_divergence(run: Path, state: TrainingState, factor: float) -> None:
    """Raises `Diverged` if the losses since the last row of the log are beyond all measure.

    Measured by the median of those steps, so that a few wild ones do not count, against the median
    of all rows before, so that losses may drift, as those of Wasserstein do. That counts as 1 at
    least, so that small losses may grow, and as 1,000 at most and in the beginning. Balance is not
    asked for: a D that wins is no divergence. The largest ratio seen in healthy runs was 1.5.

    Args:
        run: directory of the run, whose log tells what was usual.
        state: of now, with the losses of each step since the last row.
        factor: how many times the usual losses are too much.
    """
    if not state.unlogged:
        return
    usual = _usual(run / "log.jsonl")
    now = [float(np.median(np.abs(state.unlogged[name]))) for name in _LOSSES]
    if max(now) > factor * usual:
        of_D, of_G = now
        raise Diverged(
            f"after {state.images_seen:,} images the losses of D and G are of the size {of_D:.3g}"
            f" and {of_G:.3g}, at most {factor:g} times {usual:.3g} is usual;"
            f" {what_is_kept(run)}; {REMEDY}"
        )


def _usual(log: Path) -> float:
    """The size that losses usually have in a log: the median of the larger one of either player."""
    rows = [json.loads(row) for row in log.read_text().splitlines()]
    if len(rows) < _ROWS:
        return _MOST
    sizes = [max(abs(row[name]) for name in _LOSSES) for row in rows]
    return float(np.clip(np.median(sizes), _LEAST, _MOST))
