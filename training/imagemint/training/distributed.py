"""Data-parallel training: every process computes an equal part of each batch.

Lightning Fabric starts the processes and connects them. It does not wrap the networks: the hooks
of `DistributedDataParallel` expect one backward pass for each forward pass of the wrapped module,
but a step evaluates D twice, calls its features instead of its `forward`, and differentiates
penalties twice. Instead, `Distributed.average_gradients` runs after the backward pass. Because the
parts have equal sizes, the mean over processes of the gradients of mean losses is the gradient of
the whole batch. Losses and layers that are not a mean over images (batch statistics, similarities
within a batch) use the differentiable collectives.
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


class Distributed:
    """Single-process stub: every collective is a no-op.

    Attributes:
        rank: index of this process, from 0. Rank 0 writes all files.
        world_size: number of processes.
    """

    rank = 0
    world_size = 1

    def compute_local_batch_size(self, batch_size: int, option: str = "batch_size") -> int:
        """Returns how many images of a batch this process computes.

        Args:
            batch_size: number of images of all processes.
            option: option that it is the value of, for the error.

        Raises:
            ProcessesError: the batch size is not a multiple of the number of processes.
        """
        size, remainder = divmod(batch_size, self.world_size)
        if remainder:
            raise ProcessesError(
                f"{option} is {batch_size}, which {self.world_size} processes cannot share equally"
            )
        return size

    def select_local_part(self, batch: Tensor, dim: int = 0) -> Tensor:
        """Returns the part of a whole batch, along ``dim``, that this process computes."""
        size = batch.shape[dim] // self.world_size
        return batch.narrow(dim, self.rank * size, size)

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Returns the sum of ``x`` over all processes; differentiable."""
        return x

    def all_reduce_mean(self, x: Tensor) -> Tensor:
        """Returns the mean of ``x`` over all processes; differentiable."""
        return x

    def all_gather(self, part: Tensor) -> Tensor:
        """Returns the rows of all processes, [world_size * N, ...]; differentiable."""
        return part

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient with its mean over all processes."""

    def average(self, value: float) -> float:
        """Returns the mean of a number over all processes."""
        return value

    def on_rank_zero(self, action: Callable[[], None]) -> None:
        """Runs ``action`` on rank 0 and re-raises its exception on every rank."""
        action()

    def barrier(self) -> None:
        """Waits until every process has reached this call."""

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Runs the block on rank 0 first, then on the other ranks."""
        if self.rank:
            self.barrier()
        try:
            yield
        finally:
            if not self.rank:
                self.barrier()


SINGLE_PROCESS = Distributed()


class Batchwise:
    """A layer or loss that needs the whole batch, not only the part of its process.

    Attributes:
        processes: the collectives of the run; set by `start.make_initial_state`.
    """

    processes: Distributed = SINGLE_PROCESS


class FabricDistributed(Distributed):
    """Collectives over several processes, by Lightning Fabric.

    They raise `ProcessesError` if another process has ended.

    Args:
        fabric: a Fabric whose `launch` has run.
    """

    def __init__(self, fabric: "Fabric") -> None:
        self._fabric = fabric
        self.rank = fabric.global_rank
        self.world_size = fabric.world_size

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Returns the sum of ``x`` over all processes; differentiable."""
        summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
        return summed

    def all_reduce_mean(self, x: Tensor) -> Tensor:
        """Returns the mean of ``x`` over all processes; differentiable."""
        return self.all_reduce_sum(x) / self.world_size

    def all_gather(self, part: Tensor) -> Tensor:
        """Returns the rows of all processes, [world_size * N, ...]; differentiable."""
        before, after = self.rank, self.world_size - 1 - self.rank
        rows = [torch.zeros_like(part)] * before + [part] + [torch.zeros_like(part)] * after
        return self.all_reduce_sum(torch.cat(rows))

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient with its mean over all processes, in buckets of 32 MiB."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for bucket in _group_tensors(gradients):
            # Not Fabric.all_reduce: its barrier costs one more round trip for each bucket.
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            _add_all(flat)
            flat /= self.world_size
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def average(self, value: float) -> float:
        """Returns the mean of a number over all processes."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self._fabric.device)
        return self.all_reduce_mean(tensor).item()

    def on_rank_zero(self, action: Callable[[], None]) -> None:
        """Runs ``action`` on rank 0 and re-raises its exception on every rank."""
        failure: Exception | None = None
        if self.rank == 0:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - raised again below, in every process
                failure = error
        shared: Exception | None = failure
        if failure is not None and not isinstance(failure, TrainingError):
            shared = TrainingError(f"rank 0 failed: {failure!r}")
        with _explain_lost_process():
            shared = self._fabric.broadcast(shared)
        if shared is not None:
            raise failure or shared

    def barrier(self) -> None:
        """Waits until every process has reached this call."""
        with _explain_lost_process():
            self._fabric.barrier()


def _add_all(x: Tensor) -> None:
    """Replaces ``x`` with its sum over all processes."""
    with _explain_lost_process():
        dist.all_reduce(x)


@contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Raises `ProcessesError` if an exchange fails, as it does when another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessesError(
            "another process of the run has ended, or cannot be reached; its own message says why"
            f" ({error})"
        ) from error


class _Sum(torch.autograd.Function):
    """The sum over processes. Its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - as PyTorch calls it
        x = x.detach().clone(memory_format=torch.contiguous_format)
        _add_all(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401, ARG004 - likewise
        summed: Tensor = _Sum.apply(gradients[0])  # type: ignore[no-untyped-call]
        return summed


def _group_tensors(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yields the tensors in order, in lists of 32 MiB or, if it is larger, of one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(each.numel() for each in bucket) + tensor.numel() > _BUCKET_ELEMENTS
        if bucket and full:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def start_distributed(
    device: torch.device, processes: int, nodes: int
) -> tuple[Distributed, torch.device]:
    """Starts the processes of this machine, unless a launcher has, and connects all of them.

    Launchers such as torchrun and SLURM set environment variables that name the rank of a process
    and the address of rank 0. You can set them yourself: ``MASTER_ADDR``, ``MASTER_PORT`` and
    ``NODE_RANK``.

    Args:
        device: device of each process: with type cuda, each process gets its own GPU.
        processes: number of processes on this machine.
        nodes: number of machines.

    Returns:
        The collectives, and the device of this process.

    Raises:
        ProcessesError: Lightning Fabric is not installed, there are fewer GPUs than processes, or
            the environment names another number of processes.
    """
    world_size = processes * nodes
    announced = int(os.environ.get("WORLD_SIZE", world_size))
    if announced != world_size:
        raise ProcessesError(
            f"WORLD_SIZE is {announced}, but the options ask for {processes} processes on each of"
            f" {nodes} machines; --processes times --nodes must equal WORLD_SIZE"
        )
    if world_size == 1:
        return SINGLE_PROCESS, device
    if device.type == "cuda" and torch.cuda.device_count() < processes:
        raise ProcessesError(
            f"{processes} processes need {processes} GPUs, and this machine has"
            f" {torch.cuda.device_count()}; use --device cpu or fewer --processes"
        )
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415 - seconds, and only for several
    except ModuleNotFoundError as error:
        raise ProcessesError(
            "more than one process needs: pip install 'imagemint[train]'"
        ) from error
    fabric = Fabric(accelerator=device.type, devices=processes, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return FabricDistributed(fabric), fabric.device
