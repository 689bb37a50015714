"""The interface between the loop and the two kinds of networks that it trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from imagemint.training.distributed import Distributed
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.stats import Stats
from imagemint.training.networks.precision import Passes
from imagemint.training.recipes.options import RunOptions

Step = Callable[[Stats], None]
"""Trains D and G once, moves ``images_seen`` on, and adds ``loss_D``, ``loss_G`` and the rest."""


class Task(ABC):
    """A recipe with its data, as the loop uses it.

    `generator_task.GeneratorTask` trains a generator of images, `translation_task.TranslationTask`
    one that translates images. The loop itself, checkpoints, log, rollbacks, moving average and
    stopping are the same for both.
    """

    @property
    @abstractmethod
    def options(self) -> RunOptions:
        """The options of the run."""

    def list_batch_sizes(self) -> dict[str, int]:
        """Returns the number of images in each kind of batch, by option. Processes share each."""
        return {"batch_size": self.options.batch_size}

    def count_images_before(self, step: int) -> int:
        """Returns the number of real images that D sees before the step with this index, from 0."""
        return self.options.batch_size * step

    @abstractmethod
    def with_images(self, images: int) -> Self:
        """Returns the same task as a run of another length."""

    @abstractmethod
    def make_initial_state(self, device: torch.device, processes: Distributed) -> TrainingState:
        """Returns fresh networks and optimisers; the weights are a function of the seed."""

    @abstractmethod
    def describe(self, precision: str) -> dict[str, Any]:
        """Returns the description of the run for checkpoints and ``options.json``."""

    def begin(self, run: Path) -> None:
        """Writes further files of the run before its first step.

        The base class writes nothing.
        """
        del run

    @abstractmethod
    def prepare_step(
        self,
        state: TrainingState,
        *,
        seed: int,
        device: torch.device,
        passes: Passes,
        processes: Distributed,
    ) -> Step:
        """Returns the function that makes one step on ``state``.

        Args:
            state: the state that it changes, except for the moving average and the number of the
                step.
            seed: seed of the order and of everything that is drawn.
            device: device of the networks.
            passes: runs the networks.
            processes: the collectives of the run.
        """

    @abstractmethod
    def inspect(
        self,
        run: Path,
        state: TrainingState,
        *,
        monitor: Monitor | None,
        schedule: Schedule,
        interim: bool,
        scheduled: bool,
    ) -> nn.Module:
        """Returns the averaged network, ready for use, after checking its fixed samples.

        Outside of the schedule, the check writes nothing to the log, and an interim one writes no
        grid. Therefore a run that is stopped and resumed has the same files as one that is not.

        Args:
            run: directory of the run.
            state: its current state.
            monitor: draws and logs; None except in the first process.
            schedule: determines when a run fails.
            interim: whether the run stops here before its end.
            scheduled: whether a checkpoint is due here by the schedule.

        Raises:
            TrainingFailed: training cannot continue with this network.
        """
