"""Random numbers of a run, addressed by position.

Every draw is a pure function of (seed, stream, position), so a resumed run needs no generator
state to continue exactly where it stopped.
"""

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagemint.engine.sampling import Distribution


class Stream(IntEnum):
    """Independent uses of one seed."""

    ORDER = 0
    LATENTS = 1
    AUGMENTATION = 2
    CLASSES = 3
    CODES = 4
    INTERPOLATION = 5
    TORCH = 6
    CAPTIONS = 7
    SOURCES = 8
    TARGETS = 9


def make_rng(seed: int, stream: Stream, position: int) -> np.random.Generator:
    """Returns the generator of one position, which has 2^192 numbers before the next one."""
    # As an array, because NumPy would otherwise round the key [seed, stream] to float64 from 2^63
    # on.
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, position]))


def draw_torch_seed(seed: int, step: int, rank: int) -> int:
    """Returns the seed of PyTorch's own generator for one step of one process, below 2^63.

    It is drawn and not a sum, because otherwise the masks of seed 1 would be those of seed 0, one
    step later.
    """
    return int(make_rng(seed, Stream.TORCH, (rank << 40) + step).integers(2**63))


def draw_latents(
    seed: int,
    step: int,
    batch_size: int,
    z_dim: int,
    distribution: Distribution = Distribution.NORMAL,
) -> Tensor:
    """Returns the latents of one step: float32 [batch_size, z_dim]."""
    generator = make_rng(seed, Stream.LATENTS, step)
    if distribution is Distribution.UNIFORM:
        uniform = generator.random((batch_size, z_dim), dtype=np.float32)
        return torch.from_numpy(uniform).mul_(2).sub_(1)
    return torch.from_numpy(generator.standard_normal((batch_size, z_dim), dtype=np.float32))


def draw_codes(seed: int, step: int, batch_size: int, num_codes: int) -> Tensor:
    """Returns uniformly random categorical codes: int64 [batch_size]."""
    generator = make_rng(seed, Stream.CODES, step)
    return torch.from_numpy(generator.integers(0, num_codes, size=batch_size))


def draw_uniforms(seed: int, stream: Stream, position: int, *shape: int) -> Tensor:
    """Returns numbers in [0, 1) that belong to one position: float32 of that shape."""
    generator = make_rng(seed, stream, position)
    return torch.from_numpy(generator.random(shape, dtype=np.float32))


def draw_other_classes(seed: int, step: int, classes: Tensor, num_classes: int) -> Tensor:
    """Returns for each of ``classes`` int64 [N] another one, uniformly among the K - 1 others."""
    generator = make_rng(seed, Stream.CLASSES, step)
    shifts = torch.from_numpy(generator.integers(1, num_classes, size=len(classes)))
    return (classes + shifts.to(classes.device)) % num_classes


class ShuffledOrder:
    """The endless order of a data set: a new permutation for each epoch.

    Args:
        size: images in the data set.
        seed: determines the order.
        stream: stream of the seed, for a second order that is independent of the first.
    """

    def __init__(self, size: int, seed: int, stream: Stream = Stream.ORDER) -> None:
        self._size = size
        self._seed = seed
        self._stream = stream
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def list_indices(self, first: int, count: int) -> NDArray[np.int64]:
        """Returns the data indices at positions first to first + count - 1: int64 [count]."""
        parts = []
        while count:
            epoch, offset = divmod(first, self._size)
            part = self._shuffle_epoch(epoch)[offset : offset + count]
            parts.append(part)
            first += len(part)
            count -= len(part)
        return np.concatenate(parts)

    def _shuffle_epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            generator = make_rng(self._seed, self._stream, epoch)
            self._permutation = generator.permutation(self._size)
            self._epoch = epoch
        return self._permutation
