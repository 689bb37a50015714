"""The figures of a step."""

import torch
from torch import Tensor

from imagemint.training.distributed import Distributed


class Stats:
    """Losses and the like, left on the device until the step ends: to read one is to wait for it.

    Args:
        processes: over which they are averaged.
    """

    def __init__(self, processes: Distributed) -> None:
        self._processes = processes
        self._noted: list[tuple[str, Tensor | float]] = []

    def note(self, **figures: Tensor | float) -> None:
        """Takes scalars by their names, which may come again; numbers are the same everywhere."""
        self._noted += figures.items()

    def collect(self) -> list[tuple[str, float]]:
        """Returns what was noted since the last time, in order: means over all processes."""
        waiting = [each.detach() for _, each in self._noted if isinstance(each, Tensor)]
        means = iter(
            self._processes.all_reduce_mean(torch.stack(waiting)).tolist() if waiting else []
        )
        settled = [
            (name, next(means) if isinstance(each, Tensor) else each) for name, each in self._noted
        ]
        self._noted = []
        return settled
