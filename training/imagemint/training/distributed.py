"""The processes of one run, each of which holds its part of every batch.

Lightning Fabric starts them and lets them find one another. It wraps no network: the hooks of
`DistributedDataParallel` expect one backward pass for each forward pass of the wrapped module, but
D looks twice a turn, is asked for features and not for its output, and penalties go backwards
twice. Instead the gradients are averaged when they are complete, whatever made them. With parts of
one size the mean over processes of gradients of mean losses is the gradient of the whole batch;
what is no mean over images (statistics of a batch, similarities within it) is worked out over all
processes, through which gradients flow, any number of times.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from imagemint.training.errors import ProcessesError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BUCKET_ELEMENTS = 8 * 2**20  # 32 MiB of float32: few calls, and little memory beside the weights


class Processes:
    """The processes of a run; of this class, one alone, for which everything is as it is.

    Attributes:
        rank: of this process, from 0. The first writes and speaks for all.
        count: of all.
    """

    rank = 0
    count = 1

    def part_of(self, batch_size: int) -> int:
        """Returns how many images of a batch are this process's.

        Raises:
            ProcessesError: the batch cannot be shared equally.
        """
        size, left = divmod(batch_size, self.count)
        if left:
            raise ProcessesError(
                f"batch_size is {batch_size}, which {self.count} processes cannot share equally"
            )
        return size

    def mine(self, whole: Tensor, dim: int = 0) -> Tensor:
        """Returns this process's part of what was drawn for a whole batch along ``dim``."""
        size = whole.shape[dim] // self.count
        return whole.narrow(dim, self.rank * size, size)

    def total(self, x: Tensor) -> Tensor:
        """Returns the sum of ``x`` over all processes, through which gradients flow."""
        return x

    def mean(self, x: Tensor) -> Tensor:
        """Returns the mean of ``x`` over all processes, through which gradients flow."""
        return x

    def whole(self, part: Tensor) -> Tensor:
        """Returns the rows of all processes, [count * N, ...] of [N, ...]; gradients flow."""
        return part

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient by its mean over all processes."""

    def agreed(self, figure: float) -> float:
        """Returns the mean of a figure over all processes."""
        return figure

    def by_first(self, action: Callable[[], None]) -> None:
        """Lets the first process act while the others wait; what it raises, all raise."""
        action()

    def wait(self) -> None:
        """Returns when all have come here."""

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Lets the first process through before the others, who find done what it did."""
        if self.rank:
            self.wait()
        try:
            yield
        finally:
            if not self.rank:
                self.wait()


ALONE = Processes()


class Batchwise:
    """A part of the game that looks at a batch as a whole.

    Attributes:
        processes: which hold the batch together; set by `starting.initial_state`.
    """

    processes: Processes = ALONE


class FabricProcesses(Processes):
    """Several processes, joined by Lightning Fabric.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: "Fabric") -> None:
        self._fabric = fabric
        self.rank = fabric.global_rank
        self.count = fabric.world_size

    def total(self, x: Tensor) -> Tensor:
        """Returns the sum of ``x`` over all processes, through which gradients flow."""
        summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
        return summed

    def mean(self, x: Tensor) -> Tensor:
        """Returns the mean of ``x`` over all processes, through which gradients flow."""
        return self.total(x) / self.count

    def whole(self, part: Tensor) -> Tensor:
        """Returns the rows of all processes, [count * N, ...] of [N, ...]; gradients flow."""
        before, after = self.rank, self.count - 1 - self.rank
        rows = [torch.zeros_like(part)] * before + [part] + [torch.zeros_like(part)] * after
        return self.total(torch.cat(rows))

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient by its mean over all processes, in buckets."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for bucket in _buckets(gradients):
            # Not Fabric.all_reduce, which first waits for all, a round trip more for each bucket.
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.count
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def agreed(self, figure: float) -> float:
        """Returns the mean of a figure over all processes."""
        tensor = torch.tensor(figure, dtype=torch.float64, device=self._fabric.device)
        return self.mean(tensor).item()

    def by_first(self, action: Callable[[], None]) -> None:
        """Lets the first process act while the others wait; what it raises, all raise."""
        failure: Exception | None = None
        if self.rank == 0:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - raised again below, in every process
                failure = error
        told = failure
        if failure is not None and not isinstance(failure, TrainingError):
            told = TrainingError(f"the first process failed: {failure!r}")
        told = self._fabric.broadcast(told)
        if told is not None:
            raise failure or told

    def wait(self) -> None:
        """Returns when all have come here."""
        self._fabric.barrier()


class _Sum(torch.autograd.Function):
    """The sum over processes. Its gradient is that of the sum of all their losses: a sum again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - as PyTorch calls it
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - likewise
        summed: Tensor = _Sum.apply(gradients[0])  # type: ignore[no-untyped-call]
        return summed


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yields the tensors in order, of one dtype and some 32 MiB at a time."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(each.numel() for each in bucket) + tensor.numel() > _BUCKET_ELEMENTS
        if bucket and full:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def join(device: torch.device, processes: int, nodes: int) -> tuple[Processes, torch.device]:
    """Starts the other processes of this machine, unless something else has, and joins them all.

    torchrun, SLURM and the like say by environment variables which process this is and where the
    first one listens, and so may a person: ``MASTER_ADDR``, ``MASTER_PORT`` and ``NODE_RANK``.

    Args:
        device: what each process computes on: of type cuda a GPU of its own, or the CPU.
        processes: on this machine.
        nodes: machines.

    Returns:
        The processes, and the device of this one.

    Raises:
        ProcessesError: Lightning Fabric is not installed, there are fewer GPUs than processes, or
            the environment speaks of another number of processes.
    """
    count, told = processes * nodes, int(os.environ.get("WORLD_SIZE", processes * nodes))
    if told != count:
        raise ProcessesError(
            f"the environment speaks of {told} processes (WORLD_SIZE), the options of {processes}"
            f" on each of {nodes} machines: --processes and --nodes have to say the same"
        )
    if count == 1:
        return ALONE, device
    if device.type == "cuda" and torch.cuda.device_count() < processes:
        raise ProcessesError(
            f"{processes} processes need a GPU each, and here are {torch.cuda.device_count()};"
            " --device cpu does without"
        )
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415 - seconds, and only for several
    except ModuleNotFoundError as error:
        raise ProcessesError("several processes need: pip install 'imagemint[train]'") from error
    fabric = Fabric(accelerator=device.type, devices=processes, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return FabricProcesses(fabric), fabric.device
