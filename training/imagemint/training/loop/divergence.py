"""Detects losses that are finite but far beyond their usual size."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imagemint.training.errors import Diverged
from imagemint.training.loop.health import REMEDY, describe_kept_checkpoint
from imagemint.training.loop.state import TrainingState

_ROWS = 3  # rows of the log; with fewer there is no usual size yet
_LEAST, _MOST = 1.0, 1_000.0  # bounds of the usual size
_LOSSES = "loss_D", "loss_G"


class LossWatch:
    """Compares the current losses with those of the whole run.

    The median of the steps since the last row of the log is compared with the median of all rows
    before, so that a few wild steps do not count and losses may drift, as those of Wasserstein do.
    The usual size counts as 1 at least, so that small losses may grow, and as 1,000 at most and in
    the beginning. Balance is not asked for: a D that wins is no divergence. The largest ratio seen
    in healthy runs was 1.5.

    Args:
        run: directory of the run, for the messages.
        rows: rows of its log.
        factor: ratio to the usual losses that means divergence.
    """

    def __init__(self, run: Path, rows: Iterable[Mapping[str, Any]], factor: float) -> None:
        self._run = run
        self._factor = factor
        self._sizes = [_measure_size(row) for row in rows]

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row of the log, with its losses by name."""
        self._sizes.append(_measure_size(row))

    def check(self, state: TrainingState) -> None:
        """Compares the losses of each step since the last row, if there are any.

        Raises:
            Diverged: they exceed the usual size by more than the factor.
        """
        if _LOSSES[0] not in state.unlogged:
            return
        usual = self._compute_usual_size()
        of_D, of_G = (float(np.median(np.abs(state.unlogged[name]))) for name in _LOSSES)
        if max(of_D, of_G) > self._factor * usual:
            raise Diverged(
                f"after {state.images_seen:,} images the losses of D and G are of the size"
                f" {of_D:.3g} and {of_G:.3g}, at most {self._factor:g} times {usual:.3g} is usual;"
                f" {describe_kept_checkpoint(self._run)}; {REMEDY}"
            )

    def _compute_usual_size(self) -> float:
        if len(self._sizes) < _ROWS:
            return _MOST
        return float(np.clip(np.median(self._sizes), _LEAST, _MOST))


def _measure_size(row: Mapping[str, Any]) -> float:
    """Returns the size of the larger loss of a row."""
    return max(abs(float(row[name])) for name in _LOSSES)
