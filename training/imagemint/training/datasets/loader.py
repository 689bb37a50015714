"""Loads batches of real images by position."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagemint.training.datasets import LabelledImages
from imagemint.training.distributed import SINGLE_PROCESS, Distributed
from imagemint.training.rng import ShuffledOrder

_SHARE_OF_FREE_MEMORY = 0.5


def measure_free_bytes(device: torch.device) -> float:
    """Returns how many bytes of images may stay on a device: half of the free memory of a GPU.

    A CPU has no limit, because the images are in its memory anyway.
    """
    if device.type != "cuda":
        return float("inf")
    free, _ = torch.cuda.mem_get_info(device)
    return free * _SHARE_OF_FREE_MEMORY


class ImageLoader:
    """An endless, shuffled sequence of the images of a data set.

    The images are kept on the device as uint8, which is a quarter of the size of floats. On the
    CPU, this is the array of the data set itself. Images that do not fit stay in the memory of the
    host, and each batch is sent while the network computes the previous one.

    Args:
        data: the images.
        labels: visible classes, int64 [N]; -1 for hidden ones.
        seed: decides the order.
        device: device of the batches.
        processes: the processes that share every batch.

    Attributes:
        on_device: whether the images fit.
    """

    def __init__(
        self,
        data: LabelledImages,
        labels: NDArray[np.int64],
        seed: int,
        device: torch.device,
        processes: Distributed = SINGLE_PROCESS,
    ) -> None:
        self.on_device = data.images.nbytes <= measure_free_bytes(device)
        self._images = (_Kept if self.on_device else _Sent)(data.images, device)
        self._labels = torch.tensor(labels).to(device)
        self._order = ShuffledOrder(len(data), seed)
        self._processes = processes
        self._next: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def load_batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Returns this process's part of the batch at positions first to first + count - 1.

        Images are float32 [N, C, H, W] in [-1, 1], channels last in memory; labels are int64 [N].
        All processes get equal parts, in the order of their ranks.
        """
        rows = self._choose_rows(first, count)
        images = self._images.load_rows(rows)
        labels = self._labels[torch.from_numpy(rows).to(self._labels.device)]
        self._next = ((first + count, count), self._choose_rows(first + count, count))
        self._images.expect(self._next[1])
        scaled = images.float().div_(127.5).sub_(1)
        return scaled.contiguous(memory_format=torch.channels_last), labels

    def _choose_rows(self, first: int, count: int) -> NDArray[np.int64]:
        if self._next is not None and self._next[0] == (first, count):
            return self._next[1]
        size = self._processes.compute_local_batch_size(count)
        return self._order.list_indices(first + self._processes.rank * size, size)


class _Kept:
    """Images uint8 [N, H, W, C] on the device; on the CPU, the memory of the data set itself."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        # PyTorch does not share read-only memory.
        self._images = torch.from_numpy(images if images.flags.writeable else images.copy())
        self._images = self._images.to(device)

    def load_rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Returns the images of these rows, [N, C, H, W]."""
        chosen = self._images[torch.from_numpy(rows).to(self._images.device)]
        return chosen.permute(0, 3, 1, 2).contiguous()

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Does nothing, because the images are here already."""


class _Sent:
    """Images uint8 [N, H, W, C] in the memory of the host, sent to the device in advance."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self._images = images
        self._device = device
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._expected: tuple[NDArray[np.int64], Future[Tensor]] | None = None

    def load_rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Returns the images of these rows on the device, [N, C, H, W]."""
        if self._expected is None or self._expected[0] is not rows:
            self.expect(rows)
        assert self._expected is not None  # noqa: S101 - by expect
        batch = self._expected[1].result()
        if self._copy_stream is not None:
            working = torch.cuda.current_stream(self._device)
            working.wait_stream(self._copy_stream)
            batch.record_stream(working)
        return batch.permute(0, 3, 1, 2).contiguous()

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Begins to send the images of these rows."""
        self._expected = (rows, self._sender.submit(self._send, rows))

    def _send(self, rows: NDArray[np.int64]) -> Tensor:
        shape = (len(rows), *self._images.shape[1:])
        # Only from pinned memory is a copy asynchronous; PyTorch keeps it until the copy is done.
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=self._copy_stream is not None)
        np.take(self._images, rows, axis=0, out=pinned.numpy(), mode="clip")
        with torch.cuda.stream(self._copy_stream):
            return pinned.to(self._device, non_blocking=True)
