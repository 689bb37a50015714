"""A validated request for translations: loaded sources, their jobs, and their results."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from imagemint.server.batching import Conditions, Job
from imagemint.server.images.request import ImageRequest
from imagemint.server.images.sources import LoadedSource


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive sources whose tiles have one size and form one job."""

    job: Job
    offset: int
    """Position of its first source in the request."""
    count: int
    """Number of sources."""
    conditions: Conditions
    """Conditions of its sources; the job repeats them for each tile."""


@dataclass(frozen=True, slots=True)
class TranslationRequest:
    """Sources and the rules that determine the other inputs. Every field is valid.

    Attributes:
        images: one image for each source, with the digests of the sources.
        sources: the sources.
    """

    images: ImageRequest
    sources: Sequence[LoadedSource]

    def make_parts(self, deadline: float) -> list[Part]:
        """Returns the jobs that translate the sources, in order."""
        parts: list[Part] = []
        offset = 0
        for _, group in groupby(self.sources, key=_get_tile_shape):
            sources = list(group)
            parts.append(self._make_part(offset, sources, deadline))
            offset += len(sources)
        return parts

    def _make_part(self, offset: int, sources: list[LoadedSource], deadline: float) -> Part:
        job = self.images.make_job(offset, len(sources), deadline)
        conditions = job.conditions
        counts = [source.tiling.count for source in sources]
        if sum(counts) > len(sources):
            # A model that translates tiles takes no latent, so there are none to repeat.
            job.count = sum(counts)
            job.conditions = _repeat(conditions, counts)
            if isinstance(job.psi, np.ndarray):
                job.psi = np.repeat(job.psi, counts)
        tiles = [source.tiling.cut(source.pixels) for source in sources]
        job.sources = tiles[0] if len(tiles) == 1 else np.concatenate(tiles)
        return Part(job, offset, len(sources), conditions)

    def join_results(self, parts: Sequence[Part]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yields the translation of each source, uint8 [height, width, channels]."""
        source = self.images.version.spec.source
        scale = 1 if source is None else source.scale
        for part in parts:
            row = 0
            for place in range(part.offset, part.offset + part.count):
                tiling = self.sources[place].tiling
                yield tiling.join(part.job.images[row : row + tiling.count], scale)
                row += tiling.count

    def make_serials(self, parts: Sequence[Part]) -> list[str]:
        """Returns the serial of each translation; empty texts for given latents."""
        return [
            serial
            for part in parts
            for serial in self.images.make_serials(part.offset, part.count, part.conditions)
        ]


def make_translation(images: ImageRequest, sources: Sequence[LoadedSource]) -> TranslationRequest:
    """Returns the request that translates sources.

    Args:
        images: one image for each source.
        sources: the sources.
    """
    digests = [source.digest for source in sources]
    return TranslationRequest(replace(images, sources=digests), sources)


def _get_tile_shape(loaded: LoadedSource) -> tuple[int, int]:
    return loaded.tiling.tile_height, loaded.tiling.tile_width


def _repeat(conditions: Conditions, counts: Sequence[int]) -> Conditions:
    """Returns the conditions of tiles, of which each source has one or more."""
    places = np.repeat(np.arange(len(counts)), counts).tolist()
    class_id, captions, tokens = conditions
    return Conditions(
        None if class_id is None else [class_id[place] for place in places],
        None if captions is None else [captions[place] for place in places],
        None if tokens is None else tokens[places],
    )
