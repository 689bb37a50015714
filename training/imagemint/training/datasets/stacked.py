"""Stacked MNIST: three digits, one in each colour channel, a thousand modes.

Metz et al., "Unrolled Generative Adversarial Networks" (2017); Srivastava et al., "VEEGAN" (2017).
Nobody publishes its pictures: every one is drawn from MNIST.
"""

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import digest_of
from imagemint.training.datasets.images import LabelledImages

STACK = 3
CLASS_LABELS = tuple(f"{label:03d}" for label in range(1000))


class StackedDigits:
    """An endless reel of stacks over digits in memory: each a function of seed and position.

    Position p of epoch e takes, in each channel, the p-th digit of a permutation of its own, so
    within an epoch every digit appears once in every channel. Nothing but the digits and three
    permutations is held: a training loop that keeps the gray digits on its device can index them
    there with `indices` instead of moving stacks.

    Args:
        digits: gray images [N, H, W, 1] of classes 0 to 9.
        seed: decides which digits meet.
    """

    def __init__(self, digits: LabelledImages, seed: int = 0) -> None:
        self._digits = digits
        self._seed = seed
        self._epoch = -1
        self._rows: NDArray[np.int64] = np.empty((0, STACK), np.int64)

    def indices(self, first: int, count: int) -> NDArray[np.int64]:
        """Returns which digits positions first to first + count - 1 show: int64 [count, 3]."""
        parts = []
        while count:
            epoch, offset = divmod(first, len(self._digits))
            part = self._epoch_rows(epoch)[offset : offset + count]
            parts.append(part)
            first += len(part)
            count -= len(part)
        return np.concatenate(parts) if parts else np.empty((0, STACK), np.int64)

    def batch(self, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Returns the stacks at those positions: uint8 [count, H, W, 3], and labels [count].

        The label of red 1, green 2 and blue 3 is 123.
        """
        rows = self.indices(first, count)
        images = np.moveaxis(self._digits.images[rows, ..., 0], 1, -1)
        labels = self._digits.labels[rows] @ np.array([100, 10, 1])
        return np.ascontiguousarray(images), labels

    def _epoch_rows(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            key = np.array([self._seed, 0], np.uint64)
            self._rows = np.stack(
                [
                    np.random.Generator(
                        np.random.Philox(key=key, counter=[0, 0, channel, epoch])
                    ).permutation(len(self._digits))
                    for channel in range(STACK)
                ],
                axis=1,
            )
            self._epoch = epoch
        return self._rows


def stacked(digits: LabelledImages, count: int, *, seed: int = 0) -> LabelledImages:
    """Returns the first ``count`` stacks of a seed's reel, in memory: 2,352 bytes each."""
    images, labels = StackedDigits(digits, seed).batch(0, count)
    what = f"stacked {digits.sha256} {count} {seed}".encode()
    name = f"stacked-{digits.name}"
    return LabelledImages(name, images, labels, CLASS_LABELS, digest_of([what]))
