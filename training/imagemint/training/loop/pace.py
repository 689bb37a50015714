"""Measures the speed of a run on this machine with its first steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from imagemint.training.distributed import Distributed
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.task import Task
from imagemint.training.loop.training_loop import train
from imagemint.training.networks.precision import Passes

_BUDGET_S = 5.0
_MOST = 64  # steps, so that penalties every 8 or 16 steps are included


@dataclass(frozen=True)
class Pace:
    """The speed of a run.

    Attributes:
        images_per_s: real images shown to the discriminator in a second.
        steps: number of measured steps.
        images: number of real images that those steps show to the discriminator.
    """

    images_per_s: float
    steps: int
    images: int


class _Rehearsal(Distributed):
    """A single process that computes, writes nothing, and stops early.

    Attributes:
        ends: when each step ended, in seconds.
        interrupted: whether a signal asked the run to stop.
    """

    rank = 1  # the first process writes

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.interrupted = False

    def select_local_part(self, batch: Tensor, dim: int = 0) -> Tensor:  # noqa: ARG002 - as in the base class
        """Returns all of a batch."""
        return batch

    def average(self, figure: float) -> float:
        """Returns the figure; at the end of a step, where it is a bool, whether to stop."""
        if not isinstance(figure, bool):
            return figure
        self.interrupted = self.interrupted or figure
        self.ends.append(time.perf_counter())
        steps, seconds = len(self.ends) - 1, self.ends[-1] - self.ends[0]
        enough = steps >= _MOST or seconds > _BUDGET_S
        return float(figure or enough)

    def on_rank_zero(self, action: Callable[[], None]) -> None:
        """Saves and logs nothing."""


def measure_pace(task: Task, schedule: Schedule, device: torch.device, passes: Passes) -> Pace:
    """Returns the speed of a run's steps, without its checkpoints and grids. Writes nothing.

    It takes a few seconds, or two steps if they are slow. The first step is not counted, because
    it also allocates and compiles.

    Raises:
        TrainingError: the first steps of the run fail.
        KeyboardInterrupt: a signal asked it to stop.
    """
    rehearsal = _Rehearsal()
    with TemporaryDirectory() as nowhere:
        train(
            *(task.with_images(task.count_images_before(_MOST + 2)), Path(nowhere)),
            schedule=schedule,
            device=device,
            passes=passes,
            processes=rehearsal,
            quiet=True,
        )
    if rehearsal.interrupted:
        raise KeyboardInterrupt
    steps = len(rehearsal.ends) - 1
    images = task.count_images_before(steps + 1) - task.count_images_before(1)
    return Pace(images / (rehearsal.ends[-1] - rehearsal.ends[0]), steps, images)
