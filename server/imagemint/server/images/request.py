"""A validated request for images, independent of gRPC: its latents, conditions and serials."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from imagemint.engine.filtering import ImageFilter
from imagemint.engine.sampling import Run, cut_runs, group_runs
from imagemint.engine.serial import spell_prefix, spell_terms
from imagemint.server.batching import NO_CONDITIONS, Conditions, Job, Priority
from imagemint.server.images.conditions import Condition
from imagemint.server.repository import ServedVersion


@dataclass(slots=True)  # not frozen: creation for each call would take three times as long
class ImageRequest:
    """A validated request for images of one version of a model. Every field is valid.

    Attributes:
        version: the version that computes the images.
        count: number of images, 1 or more.
        latents: runs of `count` images in all, or the latents themselves, float32 [count, z_dim].
        condition: the rule for classes or captions; None for a model without them.
        truncation: truncation within the model's range, one number or one for each image; None for
            no truncation. The runs repeat a threshold.
        priority: priority in the queue.
        image_filter: which images to keep; None for all. The latents are then one run.
        sources: only for a model that translates sources: the digest of each image's source, as in
            its serial.
    """

    version: ServedVersion
    count: int
    latents: Sequence[Run] | npt.NDArray[np.float32] = field(repr=False)
    condition: Condition | None = None
    truncation: float | Sequence[float] | None = None
    priority: Priority = Priority.NORMAL
    image_filter: ImageFilter | None = None
    sources: Sequence[str] | None = None

    def make_job(self, offset: int, count: int, deadline: float) -> Job:
        """Returns the job for the images ``offset`` to ``offset + count - 1`` of the request."""
        latents = self.latents
        seed, first_index = 0, 0
        if isinstance(latents, np.ndarray):
            latents = latents[offset : offset + count]
        else:
            seed, first_index = latents[0].seed, latents[0].first_index
            if count < self.count:
                latents = cut_runs(latents, offset, offset + count)
        conditions = NO_CONDITIONS
        if self.condition is not None:
            conditions = self.condition.choose(seed, first_index, offset, count)
        psi = self._make_psi(offset, count) if self.version.spec.takes_psi else None
        return Job(count, latents, conditions, psi, deadline, self.priority)

    def make_candidates(
        self,
        job: Job,
        positions: npt.NDArray[np.int64],
        indices: npt.NDArray[np.uint64],
    ) -> Job:
        """Returns a job for other images in place of some of a job, under the same conditions.

        Args:
            job: a job of `make_job`.
            positions: positions within the job, int64 [M].
            indices: the index of the new image of each, uint64 [M].
        """
        psi = job.psi[positions] if isinstance(job.psi, np.ndarray) else job.psi
        conditions = job.conditions.select(positions)
        runs = self.make_runs(indices)
        return Job(len(positions), runs, conditions, psi, job.deadline, self.priority)

    def make_runs(self, indices: npt.NDArray[np.uint64]) -> list[Run]:
        """Returns the runs of images of the request's seed at any indices, uint64 [M]."""
        first = self.latents[0]
        assert isinstance(first, Run)  # noqa: S101 - for the type checker: explicit latents have no indices
        runs = group_runs(np.full(len(indices), first.seed, np.uint64), indices)
        return [run._replace(threshold=first.threshold) for run in runs]

    def _make_psi(self, offset: int, count: int) -> float | npt.NDArray[np.float32]:
        """Returns psi; a graph with this input takes it always. At 1, w stays unchanged."""
        if self.truncation is None:
            return 1.0
        if isinstance(self.truncation, float):
            return self.truncation
        return np.array(self.truncation[offset : offset + count], np.float32)

    def make_serials(
        self,
        offset: int,
        count: int,
        conditions: Conditions,
        chosen: Sequence[Run] | None = None,
    ) -> list[str]:
        """Returns the serials of the images from ``offset`` on; empty texts for given latents.

        Args:
            offset: position within the request.
            count: number of images.
            conditions: conditions of these images.
            chosen: the runs of these images, if a filter chose them. Default: those of the request.
        """
        if isinstance(self.latents, np.ndarray):
            return [""] * count
        version = self.version
        name, number, variant = version.spec.name, version.version, version.name_in_serials
        runs = self.latents if chosen is None else chosen
        if chosen is None and count < self.count:
            runs = cut_runs(runs, offset, offset + count)
        if not version.spec.z_dim:
            # The image does not depend on seed and index, so set them to 0 to get a unique serial.
            runs = [Run(0, 0, 1)] * count
        places: list[str] = []
        for seed, first, length, _ in runs:
            prefix = spell_prefix(name, number, variant, seed)
            places += [f"{prefix}{index}" for index in range(first, first + length)]
        unknown = [None] * count
        truncation = self.truncation
        if not isinstance(truncation, Sequence):
            truncations: Sequence[float | None] = [truncation] * count
        else:
            truncations = truncation[offset : offset + count]
        terms = map(
            spell_terms,
            conditions.class_id or unknown,
            conditions.captions or unknown,
            truncations,
            self.sources[offset : offset + count] if self.sources is not None else unknown,
        )
        return list(map(operator.add, places, terms))
