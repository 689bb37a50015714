"""Batches of real images, by position."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagemint.training.datasets import LabelledImages
from imagemint.training.randomness import ShuffledOrder


class Feed:
    """The endless, shuffled run of a data set's images, kept on the device.

    Args:
        data: the images.
        labels: what may be known of their classes, int64 [N], -1 for what is hidden.
        seed: decides the order.
        device: where the images are kept, as uint8: a quarter of what a network takes.
    """

    def __init__(
        self, data: LabelledImages, labels: NDArray[np.int64], seed: int, device: torch.device
    ) -> None:
        self._images = torch.tensor(data.images).permute(0, 3, 1, 2).contiguous().to(device)
        self._labels = torch.tensor(labels).to(device)
        self._order = ShuffledOrder(len(data), seed)

    def at(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Returns the images at positions first to first + count - 1 and their labels int64 [N].

        Images are float32 [N, C, H, W] in [-1, 1], channels last in memory.
        """
        rows = torch.from_numpy(self._order.indices(first, count)).to(self._images.device)
        scaled = self._images[rows].float().div_(127.5).sub_(1)
        return scaled.contiguous(memory_format=torch.channels_last), self._labels[rows]
