"""Jobs that callers wait for, and the slices that batches take from them."""

import asyncio
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import Run
from imagemint.engine.spec import ModelSpec


class Priority(enum.StrEnum):
    """Priorities, the highest first. The values are their names in metrics."""

    HIGH = "high"
    NORMAL = "normal"


class Conditions(NamedTuple):
    """Conditions of the images of a job; None for an input that the model does not take."""

    class_id: Sequence[int] | None = None
    """Class of each image."""
    captions: Sequence[str] | None = None
    """Caption of each image, in its normal form."""
    tokens: npt.NDArray[np.int64] | None = None
    """Token ids of the captions, int64 [count, max_words]."""

    def select(self, positions: npt.NDArray[np.int64]) -> "Conditions":
        """Returns the conditions of the images at some positions, int64 [M]."""
        classes, captions, tokens = self
        return Conditions(
            None if classes is None else [classes[at] for at in positions.tolist()],
            None if captions is None else [captions[at] for at in positions.tolist()],
            None if tokens is None else tokens[positions],
        )


NO_CONDITIONS = Conditions()
"""The conditions of a model that takes none."""


@dataclass(eq=False, slots=True)
class Job:
    """Images that one caller waits for.

    Attributes:
        count: number of images, 1 or more.
        latents: runs of `count` images in all, of which the instance draws the latents of a whole
            batch at once; or the latents themselves, float32 [count, z_dim].
        conditions: conditions of each image.
        psi: only for a model with PSI truncation, where it is never None: one value for all images,
            or float32 [count].
        deadline: `time.monotonic` value after which no image of the job is computed.
        priority: priority in the queue.
        sources: only for a model that translates sources: uint8 [count, height, width, depth].
        streamed: whether the job is part of a stream. Streams get their own share of a batch; see
            queue.py.
        images: the result, uint8 [count, H, W, C], complete once `done` resolves. It is read-only,
            because jobs of one batch may share its memory.
    """

    count: int
    latents: Sequence[Run] | npt.NDArray[np.float32]
    conditions: Conditions = NO_CONDITIONS
    psi: float | npt.NDArray[np.float32] | None = None
    deadline: float = math.inf
    priority: Priority = Priority.NORMAL
    streamed: bool = False
    sources: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    images: npt.NDArray[np.uint8] = field(init=False, repr=False)
    done: asyncio.Future[None] = field(init=False, repr=False)
    accepted_ns: int = field(init=False, default=0)
    started_ns: int = field(init=False, default=0)
    finished_ns: int = field(init=False, default=0)
    input_ns: int = field(init=False, default=0)
    inference_ns: int = field(init=False, default=0)
    output_ns: int = field(init=False, default=0)
    # The batcher changes these under its lock.
    taken: int = field(init=False, default=0, repr=False)
    computed: int = field(init=False, default=0, repr=False)
    dropped: bool = field(init=False, default=False, repr=False)

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape of one source, [height, width, depth]; empty for a job without sources."""
        return () if self.sources is None else self.sources.shape[1:]

    def count_result_bytes(self, spec: ModelSpec) -> int:
        """Returns the number of bytes of the result."""
        if self.sources is None:
            return self.count * spec.image_bytes
        return self.count * math.prod(spec.make_image_shape(self.source_shape))


class Slice(NamedTuple):
    """The images ``start`` to ``stop - 1`` of a job."""

    job: Job
    start: int
    stop: int


def count_images_left(job: Job) -> int:
    """Returns the number of images of a job that no batch has taken."""
    return job.count - job.taken
