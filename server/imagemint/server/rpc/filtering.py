"""Filters the images of a job: scores them, and replaces those that a filter rejects."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagemint.engine.filtering import ImageFilter, Scores, Selection, join_scores
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.engine.sampling import Run
from imagemint.server.batching import Job
from imagemint.server.images.request import ImageRequest
from imagemint.server.rpc.submission import Submission, wait_or_drop

# Images that one thread scores at a time, so that several threads share a chunk.
_PART = 32


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImages:
    """The images of a job with their scores."""

    images: npt.NDArray[np.uint8]
    """uint8 [N, H, W, C]."""
    scores: Scores
    rejected: list[int]
    """Number of candidates that the filter rejected before each image."""
    runs: list[Run]
    """Runs of the images, with their seeds and indices."""


class Filtering:
    """Applies filters.

    Args:
        submission: queues the jobs of further candidates.
        threads: threads that compute scores.
    """

    def __init__(self, submission: Submission, threads: ThreadPoolExecutor) -> None:
        self._submission = submission
        self._threads = threads

    async def apply(
        self, image_filter: ImageFilter, request: ImageRequest, job: Job, offset: int
    ) -> ScoredImages:
        """Returns the images of a completed job with their scores, after a filter.

        Args:
            image_filter: the filter.
            request: the request, of a version with a critic, and not of explicit latents.
            job: the job.
            offset: position of its first image in the request.

        Raises:
            FilterExhausted: an index has no candidate that passes.
            Draining: the server shuts down.
        """
        critic = request.version.critic
        assert critic is not None  # noqa: S101 - for the type checker: the request was checked
        class_id = job.conditions.class_id
        classes = None if class_id is None else np.array(class_id, np.int64)
        scores = await self._compute_scores(critic, job.images, classes)
        seed, first_index, *_ = request.latents[0]
        selection = Selection(image_filter, critic.spec, seed, first_index + offset, job.count)
        images, found = job.images.copy(), scores.by_name()
        selection.settle(scores)
        while len(positions := selection.pending):
            candidates = request.make_candidates(job, positions, selection.next_indices)
            await self._submission.submit_candidates(request.version, candidates)
            await wait_or_drop(request.version.batcher, candidates)
            their_classes = None if classes is None else classes[positions]
            scores = await self._compute_scores(critic, candidates.images, their_classes)
            passes = selection.settle(scores)
            images[positions[passes]] = candidates.images[passes]
            for name, values in scores.by_name().items():
                found[name][positions[passes]] = values[passes]
        runs = request.make_runs(selection.indices)
        return ScoredImages(images, Scores(**found), selection.rejected.tolist(), runs)

    async def _compute_scores(
        self,
        critic: OnnxCritic,
        images: npt.NDArray[np.uint8],
        classes: npt.NDArray[np.int64] | None,
    ) -> Scores:
        loop = asyncio.get_running_loop()
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self._threads,
                    critic.score,
                    images[start : start + _PART],
                    None if classes is None else classes[start : start + _PART],
                )
                for start in range(0, len(images), _PART)
            )
        )
        return join_scores(parts)
