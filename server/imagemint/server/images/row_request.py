"""A validated request with a seed and an index for each image, independent of gRPC."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import Run, runs_at
from imagemint.engine.serial import Serial
from imagemint.engine.spec import TruncationKind
from imagemint.server.batching import Job, Priority
from imagemint.server.repository import ServedVersion


@dataclass(frozen=True)
class SeedIndexPairs:
    """Seeds and indices of the rows, uint64 [count] each."""

    seeds: npt.NDArray[np.uint64]
    indices: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RowRequest:
    """A validated request for images of one version, row by row. Every field is valid.

    Attributes:
        version: the version that computes the images.
        count: number of rows, 1 or more.
        source: seeds and indices, or the latents themselves, float32 [count, z_dim].
        class_id: int64 [count]; None for an unconditional model.
        truncation: [count]: float32 for a model with PSI truncation, float64 for a model with a
            truncation threshold; None for no truncation.
    """

    version: ServedVersion
    count: int
    source: SeedIndexPairs | npt.NDArray[np.float32] = field(repr=False)
    class_id: npt.NDArray[np.int64] | None
    truncation: npt.NDArray[np.float32] | npt.NDArray[np.float64] | None

    @property
    def _uses_psi(self) -> bool:
        truncation = self.version.spec.truncation
        return truncation is not None and truncation.kind is TruncationKind.PSI

    def make_job(self, deadline: float, priority: Priority = Priority.NORMAL) -> Job:
        """Returns the job for all rows."""
        classes = None if self.class_id is None else self.class_id.tolist()
        if not self._uses_psi:
            return Job(self.count, self._draw_latents, classes, None, deadline, priority)
        # A PSI graph always takes the input. At 1, w stays unchanged.
        psi = 1.0 if self.truncation is None else self.truncation.astype(np.float32)
        return Job(self.count, self._draw_latents, classes, psi, deadline, priority)

    def _draw_latents(self, start: int, stop: int) -> list[Run] | npt.NDArray[np.float32]:
        if not isinstance(self.source, SeedIndexPairs):
            return self.source[start:stop]
        thresholds = None
        if self.truncation is not None and not self._uses_psi:
            thresholds = self.truncation[start:stop].astype(np.float64)
        return runs_at(self.source.seeds[start:stop], self.source.indices[start:stop], thresholds)

    def make_serials(self) -> list[str]:
        """Returns the serial number of each row.

        Raises:
            ValueError: the request gives latents, and their images have no serials.
        """
        if not isinstance(self.source, SeedIndexPairs):
            raise ValueError("explicit latents have no serials")  # noqa: TRY004 - the value is wrong
        name, version = self.version.spec.name, self.version.version
        variant = self.version.backend.variant.name_in_serials
        seeds, indices = self.source.seeds.tolist(), self.source.indices.tolist()
        classes = [None] * self.count if self.class_id is None else self.class_id.tolist()
        # The conversion goes through text, so that float32 0.7 is spelled 0.7, like float64 0.7.
        truncation = (
            [None] * self.count
            if self.truncation is None
            else [float(str(value)) for value in self.truncation]
        )
        return [
            str(Serial(name, version, *row, variant=variant))
            for row in zip(seeds, indices, classes, truncation, strict=True)
        ]
