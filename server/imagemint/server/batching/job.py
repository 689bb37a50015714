"""What callers wait for, and the parts it is cut into."""

import asyncio
import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import Run


class Priority(enum.StrEnum):
    """Who goes first, the highest first; the values name them in metrics."""

    HIGH = "high"
    NORMAL = "normal"


@dataclass(eq=False, slots=True)
class Job:
    """Images that one caller waits for.

    Attributes:
        count: how many, 1 or more.
        latents: gives what the latents of images start to stop - 1 of the job are: runs of that
            many images in all, or float32 [n, z_dim]. The instance that computes them draws them,
            for a whole batch at once.
        class_id: `count` of them, or None.
        truncation: for a model whose truncation is PSI, and then never None; otherwise None. One
            for all, or float32 [count].
        deadline: `time.monotonic` value after which nothing of it is computed any more.
        priority: who goes first.
        streamed: whether it is part of a stream, which gets a share of its own; see queue.py.
        images: the result, uint8 [count, H, W, C], whole once `done` is; read-only, for jobs of
            one batch may share its memory.
    """

    count: int
    latents: Callable[[int, int], Sequence[Run] | npt.NDArray[np.float32]]
    class_id: Sequence[int] | None
    truncation: float | npt.NDArray[np.float32] | None = None
    deadline: float = math.inf
    priority: Priority = Priority.NORMAL
    streamed: bool = False
    images: npt.NDArray[np.uint8] = field(init=False, repr=False)
    done: asyncio.Future[None] = field(init=False, repr=False)
    accepted_ns: int = field(init=False, default=0)
    started_ns: int = field(init=False, default=0)
    finished_ns: int = field(init=False, default=0)
    input_ns: int = field(init=False, default=0)
    inference_ns: int = field(init=False, default=0)
    output_ns: int = field(init=False, default=0)
    # Owned by the batcher, under its lock.
    taken: int = field(init=False, default=0, repr=False)
    computed: int = field(init=False, default=0, repr=False)
    dropped: bool = field(init=False, default=False, repr=False)


class Slice(NamedTuple):
    """The images ``start`` to ``stop - 1`` of a job."""

    job: Job
    start: int
    stop: int


def count_images_left(job: Job) -> int:
    """Images of a job that no batch has taken."""
    return job.count - job.taken
