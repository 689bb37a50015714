"""Builds the inputs of a batch from its slices, and assigns its images to their jobs."""

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import Run, latents_of
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching.job import Slice


def allocate_images(batch: list[Slice], spec: ModelSpec) -> None:
    """Allocates the results of jobs that span several batches; the caller holds the lock."""
    for job, start, stop in batch:
        if start == 0 and stop < job.count:
            shape = (job.count, spec.height, spec.width, spec.channels)
            job.images = np.empty(shape, np.uint8)


def assign_images(batch: list[Slice], images: npt.NDArray[np.uint8], spec: ModelSpec) -> None:
    """Assigns the images of a batch to its jobs. They keep at most twice their size in memory."""
    count = count_images(batch)
    if images.shape != (expected := (count, spec.height, spec.width, spec.channels)):
        raise ValueError(f"the backend returned images of shape {images.shape}, not {expected}")
    row = 0
    for job, start, stop in batch:
        part = images[row : row + stop - start]
        if stop - start == job.count:
            # A view keeps the whole batch in memory until the slowest reader has its answer.
            job.images = part if 2 * len(part) > count else part.copy()
        else:
            job.images[start:stop] = part
        row += stop - start


def count_images(batch: list[Slice]) -> int:
    """Returns the number of images of a batch."""
    return sum(stop - start for _, start, stop in batch)


def stack_latents(batch: list[Slice], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Returns the latents float32 [N, z_dim]; one call draws those of all seeds."""
    z = np.empty((count_images(batch), spec.z_dim), np.float32)
    runs: list[Run] = []
    is_drawn = np.ones(len(z), np.bool_)
    row = 0
    for job, start, stop in batch:
        latents = job.latents(start, stop)
        if isinstance(latents, np.ndarray):
            z[row : row + stop - start] = latents
            is_drawn[row : row + stop - start] = False
        else:
            runs += latents
        row += stop - start
    drawn = latents_of(runs, spec.z_dim, distribution=spec.distribution)
    if len(drawn) == len(z):
        return drawn
    z[is_drawn] = drawn
    return z


def stack_classes(batch: list[Slice]) -> npt.NDArray[np.int64] | None:
    """Returns the classes int64 [N]; None if the jobs have no classes."""
    classes: list[int] = []
    for job, start, stop in batch:
        if job.class_id is None:
            return None
        classes.extend(job.class_id[start:stop])
    return np.array(classes, np.int64)


def stack_truncation(batch: list[Slice]) -> npt.NDArray[np.float32] | None:
    """Returns the truncation float32 [N]; None if the jobs have no truncation."""
    parts = [
        np.broadcast_to(np.float32(p.job.truncation), p.job.count)[p.start : p.stop]
        for p in batch
        if p.job.truncation is not None
    ]
    return np.concatenate(parts) if parts else None
