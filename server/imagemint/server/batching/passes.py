"""The inputs of a pass from its slices, and its images back to them."""

import numpy as np
import numpy.typing as npt

from imagemint.server.batching.job import Slice


def hand_out(batch: list[Slice], images: npt.NDArray[np.uint8]) -> None:
    """Copies the images of a batch into the results of its jobs."""
    count = sum(piece.stop - piece.start for piece in batch)
    if images.shape != (expected := (count, *batch[0].job.images.shape[1:])):
        raise ValueError(f"the backend gave images of shape {images.shape}, not {expected}")
    row = 0
    for piece in batch:
        size = piece.stop - piece.start
        piece.job.images[piece.start : piece.stop] = images[row : row + size]
        row += size


def stacked_classes(batch: list[Slice]) -> npt.NDArray[np.int64] | None:
    """int64 [N], or None if the jobs have no classes."""
    parts = [p.job.class_id[p.start : p.stop] for p in batch if p.job.class_id is not None]
    return np.concatenate(parts) if parts else None


def stacked_truncation(batch: list[Slice]) -> npt.NDArray[np.float32] | None:
    """float32 [N], or None if the jobs have no truncation."""
    parts = [
        np.broadcast_to(np.float32(p.job.truncation), p.job.count)[p.start : p.stop]
        for p in batch
        if p.job.truncation is not None
    ]
    return np.concatenate(parts) if parts else None
