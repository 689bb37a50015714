"""Statistics of one step: losses, penalties, logits."""

from collections.abc import Iterable

import torch
from torch import Tensor

from imagemint.training.distributed import Distributed


class Stats:
    """Collects scalars on the device. Reading one waits for the GPU, so all are read together.

    Args:
        processes: the scalars are averaged over these.
    """

    def __init__(self, processes: Distributed) -> None:
        self._processes = processes
        self._pending: list[tuple[str, Tensor | float]] = []

    def add(self, **scalars: Tensor | float) -> None:
        """Adds scalars by name; a name may occur again. Floats are equal in every process."""
        self.extend(scalars.items())

    def extend(self, scalars: Iterable[tuple[str, Tensor | float]]) -> None:
        """Adds pairs of name and scalar."""
        self._pending += scalars

    def collect(self) -> list[tuple[str, float]]:
        """Returns the scalars added since the last call, in order, averaged over all processes."""
        tensors = [value.detach() for _, value in self._pending if isinstance(value, Tensor)]
        means = iter(
            self._processes.all_reduce_mean(torch.stack(tensors)).tolist() if tensors else []
        )
        collected = [
            (name, next(means) if isinstance(value, Tensor) else value)
            for name, value in self._pending
        ]
        self._pending = []
        return collected
