"""Images in order: an IterableDataset for workers and ranks that can be resumed."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from imagemint.client.image_source import ImageSource, SourceImages
from imagemint.client.prefetch import Prefetch
from imagemint.client.torch.items import ItemFormat, Output, Transform
from imagemint.client.torch.shares import Block, Share, find_rank, find_worker

_BLOCK_SIZE = 64


class SyntheticStream(IterableDataset[Any]):
    """`count` images of a source in order of index, each exactly once over all workers and ranks.

    Items are (image, class), or (image, class, serial). The class is -1 for a model without
    classes. The images of an epoch are the same in every run. Images are distributed in blocks:
    with a `block_size` equal to the batch size, the batches of a rank do not depend on the number
    of workers.

    Reads run ahead of the training step on threads, so that a server needs no worker processes.
    Workers help if `transform` is expensive.

    `state_dict` and `load_state_dict` follow the convention of torchdata: a StatefulDataLoader
    saves and restores the position of each worker. With an ordinary DataLoader they work without
    worker processes.

    Args:
        source: a ServerSource, or another ImageSource.
        count: images of one epoch over all ranks.
        first_index: index of the first image.
        block_size: images of one read, 1 to the `max_images` of the source. Use the batch size.
            Default: 64, or fewer if the source has a smaller limit.
        batched: whether to yield whole blocks, as (uint8 [N, C, H, W], int64 [N]), which is faster
            than single images. Use it with `DataLoader(..., batch_size=None)`.
        advance: whether each epoch continues at the next index, so that no image comes twice.
            Default: every epoch has the same images.
        drop_last: whether to leave out the end of the range, so that all ranks have the same number
            of full blocks. Use it with DistributedDataParallel, which waits for every rank.
        prefetch: reads ahead of the loop, 0 or more.
        output: type of the images, see `Output`. With `batched` it must be "tensor".
        transform: applied to each image.
        serials: whether items have their serial number.
        rank: rank of this process. Default: that of torch.distributed, or 0 without a process
            group.
        world_size: number of ranks; goes with `rank`.

    Raises:
        ValueError: an argument is out of its range, or does not go with another one.
    """

    def __init__(
        self,
        source: ImageSource,
        count: int,
        *,
        first_index: int = 0,
        block_size: int | None = None,
        batched: bool = False,
        advance: bool = False,
        drop_last: bool = False,
        prefetch: int = 4,
        output: Output = "tensor",
        transform: Transform | None = None,
        serials: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        _check("count", count, 0)
        _check("prefetch", prefetch, 0)
        if block_size is None:
            block_size = min(_BLOCK_SIZE, source.max_images)
        _check("block_size", block_size, 1, source.max_images)
        if batched and output != "tensor":
            raise ValueError("a batched stream yields tensors, so output must be 'tensor'")
        self._source = source
        self._count = count
        self._first_index = first_index
        self._block_size = block_size
        self._batched = batched
        self._advance = advance
        self._drop_last = drop_last
        self._prefetch = prefetch
        self._format = ItemFormat(output, transform, serials)
        self._rank = _check_rank(rank, world_size)
        # Shared, because workers that persist do not see other changes of the parent.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._done = 0  # images of this share that the loop has received in this epoch
        self._resume_at = 0

    @property
    def source(self) -> ImageSource:
        """Source of the images."""
        return self._source

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0 on."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch. Call it before each iteration if `advance` is set.

        After `load_state_dict`, the epoch of the state continues where the state was taken.
        """
        _check("epoch", epoch, 0)
        if epoch != self.epoch:
            self._resume_at = 0
        self._done = self._resume_at
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Returns the items of this rank: images, or blocks if `batched`."""
        rank, world_size = self._find_rank()
        blocks = Share(rank, world_size).list_blocks(
            self._count, self._block_size, drop_last=self._drop_last
        )
        return sum(1 if self._batched else block.size for block in blocks)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator: the position to resume at is taken when the iterator is created.
        skip, self._resume_at = self._resume_at, 0
        self._done = skip
        share = Share(*self._find_rank(), *find_worker())
        blocks = share.list_blocks(
            self._count, self._block_size, skip=skip, drop_last=self._drop_last
        )
        start = self._first_index + (self.epoch * self._count if self._advance else 0)

        def read(block: Block) -> SourceImages:
            return self._source.read(start + block.start, block.size)

        return self._yield_items(Prefetch(read, blocks, self._prefetch))

    def state_dict(self) -> dict[str, Any]:
        """Returns epoch and position of this worker, and what determines the images."""
        return {"epoch": self.epoch, "images_done": self._done, "plan": self._make_plan()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the next iteration where `state` was taken.

        Raises:
            ValueError: the state belongs to other images, or to another division among ranks.
        """
        plan = {name: value for name, value in self._make_plan().items() if _is_known(name, state)}
        other = [name for name in plan if state["plan"].get(name) != plan[name]]
        if other:
            changes = ", ".join(
                f"{name} {state['plan'].get(name)!r}, now {plan[name]!r}" for name in other
            )
            raise ValueError(f"the state belongs to another stream: {changes}")
        self._epoch.fill_(state["epoch"])
        self._done = self._resume_at = state["images_done"]

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker has no process group, so the rank goes with the dataset.
        return self.__dict__ | {"_rank": self._rank or find_rank()}

    def _yield_items(self, read: Iterator[SourceImages]) -> Iterator[Any]:
        for images in read:
            if self._batched:
                self._done += len(images.image)
                yield self._format.stack(images)
                continue
            for item in self._format.split(images):
                self._done += 1
                yield item

    def _find_rank(self) -> tuple[int, int]:
        return self._rank or find_rank() or (0, 1)

    def _make_plan(self) -> dict[str, Any]:
        rank, world_size = self._find_rank()
        return {
            **dataclasses.asdict(self._source.identity),
            "count": self._count,
            "first_index": self._first_index,
            "block_size": self._block_size,
            "advance": self._advance,
            "drop_last": self._drop_last,
            "rank": rank,
            "world_size": world_size,
            "num_workers": find_worker()[1],
        }


def _is_known(name: str, state: dict[str, Any]) -> bool:
    """Returns whether a state has a name; those of 0.3 lack the last two fields of the source."""
    return name in state["plan"] or name not in {"condition", "truncation"}


def _check(name: str, value: int, smallest: int, largest: int | None = None) -> None:
    if value < smallest or (largest is not None and value > largest):
        limits = f"at least {smallest}" if largest is None else f"{smallest} to {largest}"
        raise ValueError(f"{name} is {value}, and must be {limits}")


def _check_rank(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    if (rank is None) != (world_size is None):
        raise ValueError("set rank and world_size together")
    if rank is None or world_size is None:
        return None
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}, and must be 0 to {world_size - 1}")
    return rank, world_size
