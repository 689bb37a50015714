"""Writes the results of the loop: rows of the log, grids of samples, and checkpoints."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from imagemint.training.distributed import Distributed
from imagemint.training.errors import LossNotFinite
from imagemint.training.loop.checkpoints import save_checkpoint
from imagemint.training.loop.divergence import LossWatch
from imagemint.training.loop.health import REMEDY, describe_kept_checkpoint
from imagemint.training.loop.monitor import Monitor, read_log
from imagemint.training.loop.schedules import Schedule, has_crossed
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.task import Task

Measure = Callable[[nn.Module], Mapping[str, float]]
"""Measures a generator: returns figures by their names in the log."""


class Recorder:
    """Checks each step, and writes the results that are due. Only rank 0 writes.

    Use it as a context manager: at the end it draws the loss plot and the animated grids.

    Args:
        task: the task of the run.
        run: directory of the run.
        state: its state, read when something is written.
        metadata: the description that every checkpoint holds.
        schedule: how often to log and save.
        processes: the collectives of the run.
        measure: returns figures of a generator by their names, for the log; None for no figures.
        quiet: whether to show no progress bar.
    """

    def __init__(
        self,
        task: Task,
        run: Path,
        state: TrainingState,
        metadata: dict[str, Any],
        *,
        schedule: Schedule,
        processes: Distributed,
        measure: Measure | None,
        quiet: bool,
    ) -> None:
        self._task, self._run, self._state = task, run, state
        self._metadata, self._schedule, self._processes = metadata, schedule, processes
        is_writer = processes.rank == 0
        self._monitor = Monitor(run, task.options.images, state, quiet=quiet) if is_writer else None
        self._measure = measure
        rows = read_log(run) if is_writer else []
        self._losses = LossWatch(run, rows, schedule.divergence_factor)
        self._seen = state.images_seen
        self._saved_at = state.images_seen if state.step else None
        self._generator: nn.Module = state.G_ema  # recalibrated when a checkpoint is due

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._monitor:
            self._monitor.__exit__(kind, error, trace)

    def record_step(self, stats: list[tuple[str, float]]) -> None:
        """Adds the statistics of a step; writes a grid, a row and a checkpoint if due.

        Raises:
            LossNotFinite: a loss or a tensor of the state is NaN or infinite.
            Diverged: the losses are far beyond their usual size.
            ModeCollapse: samples of one class have been nearly equal for too long.
        """
        seen, schedule = self._state.images_seen, self._schedule
        _refuse_not_finite(stats, self._state, self._run)
        if self._monitor:
            self._monitor.add_step(stats)
        is_snapshot_due = has_crossed(self._seen, seen, schedule.snapshot_interval)
        is_row_due = has_crossed(self._seen, seen, schedule.log_interval)
        self._seen = seen
        if is_snapshot_due:  # before the row, which has the variety of the samples
            self._processes.on_rank_zero(self._inspect)
        if is_row_due:
            self._processes.on_rank_zero(self._write_row)
        if is_snapshot_due:
            self._processes.on_rank_zero(self._save)
            self._saved_at = seen

    def save_end(self) -> None:
        """Saves the last state, unless the schedule already has.

        Raises:
            LossNotFinite, Diverged: as for `record_step`.
        """
        if self._saved_at == self._state.images_seen:
            return
        interim = self._state.images_seen < self._task.options.images
        inspect = partial(self._inspect, interim=interim, scheduled=False)
        self._processes.on_rank_zero(inspect)
        self._processes.on_rank_zero(partial(self._save, interim=interim))

    def _inspect(self, *, interim: bool = False, scheduled: bool = True) -> None:
        self._losses.check(self._state)
        self._generator = self._task.inspect(
            *(self._run, self._state),
            monitor=self._monitor,
            schedule=self._schedule,
            interim=interim,
            scheduled=scheduled,
        )
        if scheduled and self._monitor and self._measure:
            self._monitor.note_quality(self._measure(self._generator))

    def _write_row(self) -> None:
        self._losses.check(self._state)
        if self._monitor:
            self._losses.add(self._monitor.log())

    def _save(self, *, interim: bool = False) -> None:
        if self._monitor:
            self._monitor.flush()
        save_checkpoint(self._run, self._state, self._generator, self._metadata, interim=interim)


def _refuse_not_finite(stats: list[tuple[str, float]], state: TrainingState, run: Path) -> None:
    faults = [f"{name} is {value}" for name, value in stats if not math.isfinite(value)]
    if faults:
        raise LossNotFinite(
            f"after {state.images_seen:,} images {' and '.join(dict.fromkeys(faults))};"
            f" {describe_kept_checkpoint(run)}; {REMEDY}"
        )
