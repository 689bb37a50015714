"""Batches of a few fixed sizes, each with its own buffers, for a GPU.

A batch is padded to the next bucket with copies of its first row, and a batch above the largest
bucket is cut. A device therefore runs only a few shapes. Each is prepared once: kernels are chosen,
buffers allocated, and the run captured as a CUDA graph.

On a CPU this has no advantage, because nothing is prepared by shape, and padding is computed in
full. Compared with plain runs of the digit generator, full buckets delivered 0.9 to 1.1 times the
images/s, and batches one image above a bucket 0.5 to 0.6 times (benchmarks/results/device-cpu.json,
on busy cores). A CPU therefore uses plain runs. Buckets also work on a CPU, and are tested there.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from imagemint.engine.batch import Batch, Feed
from imagemint.engine.errors import BackendFailed
from imagemint.engine.onnx.session import BoundBatch, Session
from imagemint.engine.spec import ModelSpec

_PAGE_BYTES = 4096
ScalarT = TypeVar("ScalarT", bound=np.generic)


def choose_default_buckets(most: int) -> tuple[int, ...]:
    """Returns 1, 2, 4, ... and `most`, which is 1 or more."""
    return (*(2**power for power in range((most - 1).bit_length())), most)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start`` to ``stop - 1`` of a batch, which run as `size` rows."""

    start: int
    stop: int
    size: int


def split_into_pieces(count: int, buckets: Sequence[int]) -> Iterator[Piece]:
    """Cuts a batch into as few buckets as possible; the rest gets the smallest bucket that fits.

    Args:
        count: rows of the batch.
        buckets: the sizes, ascending.
    """
    largest = buckets[-1]
    for start in range(0, count, largest):
        stop = min(start + largest, count)
        yield Piece(start, stop, next(size for size in buckets if size >= stop - start))


def allocate_buffers(
    spec: ModelSpec, sample: Feed, size: int
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.uint8]]:
    """Returns the inputs and the output of a bucket, on separate pages.

    Args:
        spec: the model.
        sample: result of `make_probe_feed`, `size` rows or more; the inputs contain its last rows.
        size: number of rows.
    """
    inputs = {name: _on_pages((size, *v.shape[1:]), v.dtype) for name, v in sample.items()}
    for name, array in inputs.items():
        array[:] = sample[name][-1]
    output = _on_pages((size, spec.height, spec.width, spec.channels), np.dtype(np.uint8))
    return inputs, output


def _on_pages(shape: tuple[int, ...], dtype: np.dtype[ScalarT]) -> npt.NDArray[ScalarT]:
    """Returns an array that shares no page with others, because a page can only be locked once."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    rounded_bytes = -(-num_bytes // _PAGE_BYTES) * _PAGE_BYTES
    memory = np.zeros(rounded_bytes + _PAGE_BYTES, np.uint8)
    start = -memory.ctypes.data % _PAGE_BYTES
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


class BucketedInstance:
    """Runs batches in buckets, on the thread that created it. Implements `Instance`.

    Args:
        prepare: checks a batch and turns it into a feed.
        batches: the buckets, by size.
    """

    def __init__(self, prepare: Callable[[Batch], Feed], batches: Mapping[int, BoundBatch]) -> None:
        self._prepare = prepare
        self._batches = dict(sorted(batches.items()))
        self._buckets = tuple(self._batches)
        self._row = next(iter(batches.values())).output.shape[1:]
        self._thread = threading.get_ident()

    def run(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns the images, uint8 [N, height, width, channels]; see `Backend.run`."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("an instance belongs to the thread that opened it")
        feed = self._prepare(batch)
        if not self._batches:
            raise BackendFailed("the instance was closed")
        images = np.empty((len(batch), *self._row), np.uint8)
        for piece in split_into_pieces(len(batch), self._buckets):
            bound = self._batches[piece.size]
            count = piece.stop - piece.start
            for name, array in bound.inputs.items():
                array[:count] = feed[name][piece.start : piece.stop]
                array[count:] = feed[name][piece.start]
            bound.run()
            images[piece.start : piece.stop] = bound.output[:count]
        return images

    def run_alone(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Returns the same as `run`; a GPU gains nothing when no other batch runs."""
        return self.run(batch)

    def close(self) -> None:
        """Releases the buffers. It can be called twice."""
        for batch in self._batches.values():
            batch.close()
        self._batches = {}


def bind_buckets(
    session: Session,
    spec: ModelSpec,
    sample: Feed,
    expected: npt.NDArray[np.uint8],
    buckets: Sequence[int],
    *,
    graphs: bool,
) -> dict[int, BoundBatch]:
    """Binds every bucket and runs it twice, the largest first, so that the arena grows once.

    The first run captures the graph, if graphs are used. The second run replays it with other
    inputs, and its images are compared with the expected ones.

    Args:
        session: the session that runs them.
        spec: the model.
        sample: inputs with as many rows as the largest bucket.
        expected: images of the sample.
        buckets: sizes.
        graphs: whether to capture CUDA graphs.

    Raises:
        BackendFailed: the runtime failed, or the images of a bucket are not the expected ones.
    """
    bound: dict[int, BoundBatch] = {}
    with contextlib.ExitStack() as on_failure:
        for number, size in enumerate(sorted(buckets, reverse=True), start=1):
            inputs, output = allocate_buffers(spec, sample, size)
            batch = session.bind(inputs, output, graph_id=number if graphs else None)
            on_failure.callback(batch.close)
            batch.run()
            for name, array in inputs.items():
                array[:] = sample[name][:size]
            batch.run()
            if output.tobytes() != expected[:size].tobytes():
                raise BackendFailed(f"bound batches of {size} differ from plain ones")
            bound[size] = batch
        on_failure.pop_all()
    return bound
