"""Builds the inputs of a batch from its slices, and assigns its images to their jobs."""

import numpy as np
import numpy.typing as npt

from imagemint.engine.batch import Batch
from imagemint.engine.sampling import Run, cut_runs, draw_run_latents
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching.job import Slice


def allocate_images(batch: list[Slice], spec: ModelSpec) -> None:
    """Allocates the results of jobs that span several batches, once; the caller holds the lock."""
    for job, start, stop in batch:
        if stop - start < job.count and not hasattr(job, "images"):
            shape = spec.make_image_shape(job.source_shape)
            job.images = np.empty((job.count, *shape), np.uint8)


def assign_images(
    batch: list[Slice], count: int, images: npt.NDArray[np.uint8], spec: ModelSpec
) -> None:
    """Assigns the `count` images of a batch, whose sources have one size, to its jobs.

    The jobs keep at most twice their size in memory.
    """
    expected = (count, *spec.make_image_shape(batch[0].job.source_shape))
    if images.shape != expected:
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


def group_by_size(batch: list[Slice]) -> list[list[Slice]]:
    """Returns the parts of a batch whose sources have one size, which one pass can compute."""
    if len(batch) == 1 or batch[0].job.sources is None:
        return [batch]
    groups: dict[tuple[int, ...], list[Slice]] = {}
    for piece in batch:
        groups.setdefault(piece.job.source_shape, []).append(piece)
    return list(groups.values())


def stack_inputs(batch: list[Slice], spec: ModelSpec) -> Batch:
    """Returns the inputs of a batch whose sources have one size."""
    return Batch(
        z=_stack_latents(batch, spec) if spec.z_dim else None,
        source=_stack_sources(batch) if spec.source is not None else None,
        class_id=_stack_classes(batch) if spec.conditional else None,
        tokens=_stack_tokens(batch) if spec.captions is not None else None,
        truncation=_stack_psi(batch) if spec.takes_psi else None,
    )


def _stack_latents(batch: list[Slice], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Returns the latents float32 [N, z_dim]; one call draws those of all seeds."""
    runs: list[Run] = []
    given: list[tuple[int, npt.NDArray[np.float32]]] = []
    row = 0
    for job, start, stop in batch:
        if isinstance(job.latents, np.ndarray):
            given.append((row, job.latents[start:stop]))
        elif stop - start == job.count:
            runs += job.latents
        else:
            runs += cut_runs(job.latents, start, stop)
        row += stop - start
    drawn = draw_run_latents(runs, spec.z_dim, distribution=spec.distribution)
    if not given:
        return drawn
    z = np.empty((row, spec.z_dim), np.float32)
    is_drawn = np.ones(row, np.bool_)
    for first, latents in given:
        z[first : first + len(latents)] = latents
        is_drawn[first : first + len(latents)] = False
    z[is_drawn] = drawn
    return z


def _stack_sources(batch: list[Slice]) -> npt.NDArray[np.uint8]:
    """Returns the sources uint8 [N, height, width, depth]."""
    parts = [job.sources[a:b] for job, a, b in batch if job.sources is not None]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stack_classes(batch: list[Slice]) -> npt.NDArray[np.int64]:
    """Returns the classes int64 [N]."""
    classes: list[int] = []
    for job, start, stop in batch:
        classes.extend((job.conditions.class_id or ())[start:stop])
    return np.array(classes, np.int64)


def _stack_tokens(batch: list[Slice]) -> npt.NDArray[np.int64]:
    """Returns the token ids int64 [N, max_words]."""
    return np.concatenate(
        [
            job.conditions.tokens[start:stop]
            for job, start, stop in batch
            if job.conditions.tokens is not None
        ]
    )


def _stack_psi(batch: list[Slice]) -> npt.NDArray[np.float32]:
    """Returns the truncation float32 [N]."""
    return np.concatenate(
        [
            np.broadcast_to(np.float32(job.psi), job.count)[start:stop]
            for job, start, stop in batch
            if job.psi is not None
        ]
    )
