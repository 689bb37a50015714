"""Divides a range of images among the ranks of a training run and the workers of their loaders."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.distributed
from torch.utils.data import get_worker_info


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive positions, which one read covers."""

    start: int
    """Position of the first image, from 0 on."""
    size: int
    """Number of images."""


@dataclass(frozen=True, slots=True)
class Share:
    """Position of a reader: one worker of one rank.

    Block b belongs to rank `b % world_size`. The blocks of a rank go to its workers in turn, as a
    DataLoader takes batches from its workers in turn. If a block is a batch, the batches of a rank
    therefore have the same order with any number of workers.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1

    def list_blocks(
        self, count: int, block_size: int, *, skip: int = 0, drop_last: bool = False
    ) -> Iterator[Block]:
        """Yields the blocks of this share.

        Args:
            count: number of images of all shares.
            block_size: images in a block, 1 or more; the last block may have fewer.
            skip: images of this share to leave out.
            drop_last: whether to leave out incomplete blocks and rounds, so that all ranks have
                the same number of blocks.
        """
        total = -(-count // block_size)
        if drop_last:
            total = count // block_size // self.world_size * self.world_size
        turn, offset = divmod(skip, block_size)
        step = self.world_size * self.num_workers
        first = self.rank + self.world_size * self.worker + step * turn
        for block in range(first, total, step):
            start = block * block_size + offset
            size = min((block + 1) * block_size, count) - start
            if size > 0:
                yield Block(start, size)
            offset = 0


def find_rank() -> tuple[int, int] | None:
    """Returns rank and world size of this process; None without a process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return None


def find_worker() -> tuple[int, int]:
    """Returns number and count of workers of the DataLoader that this process works for."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
