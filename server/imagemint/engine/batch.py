"""The inputs of a batch by name: everything that a generator receives for some images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import draw_bytes, draw_classes, draw_latents
from imagemint.engine.spec import GraphInput, ModelSpec, Source

Feed = dict[str, npt.NDArray[Any]]
"""The graph's inputs by name, the batch along the first axis of each."""

_HALF, _WHITE = 128, 255


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The inputs of N images. An input that the model does not take is None.

    To add an input of generators, add a field here, a line in `spec.ModelSpec.inputs`, and a
    default value in `draw_batch`.
    """

    z: npt.NDArray[np.float32] | None = None
    """Latents, float32 [N, z_dim]; N can be 0."""
    class_id: npt.NDArray[np.int64] | None = None
    """Classes, int64 [N], each 0 to K - 1."""
    tokens: npt.NDArray[np.int64] | None = None
    """Token ids of the captions, int64 [N, max_words]; see `captions.Captions.encode`."""
    truncation: npt.NDArray[np.float32] | None = None
    """Psi, float32 [N]."""
    source: npt.NDArray[np.uint8] | None = None
    """Sources, uint8 [N, height, width, depth], all of one size."""

    def __len__(self) -> int:
        """Returns the number of images."""
        return next(len(v) for name in _NAMES if (v := getattr(self, name)) is not None)

    def __getitem__(self, part: slice) -> Self:
        """Returns the images of a part of the batch."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        given = {name: value[part] for name, value in values.items() if value is not None}
        return type(self)(**given)

    def make_feed(self, inputs: Mapping[str, GraphInput]) -> Feed:
        """Returns the inputs of a graph, each [N, *row].

        Only types and shapes are checked. A graph takes class -1 for the last class, so the values
        are checked where a request is read.

        Raises:
            ValueError: an input is missing, or its type or shape differs.
        """
        feed: Feed = {}
        count = len(self)
        for name, expected in inputs.items():
            array = getattr(self, name)
            if array is not None and array.ndim == 1:
                array = array[:, np.newaxis]
            if (
                array is None
                or array.dtype != expected.dtype
                or len(array) != count
                or not expected.fits(array.shape[1:])
            ):
                found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise ValueError(
                    f"input {name!r} is {found}, not {expected.dtype} {[count, *expected.row]}"
                )
            feed[name] = array
        return feed


_NAMES = tuple(field.name for field in fields(Batch))


def draw_batch(
    spec: ModelSpec,
    seed: int,
    first_index: int,
    count: int,
    source_size: tuple[int, int] | None = None,
) -> Batch:
    """Returns the inputs of images of a seed without other conditions.

    Classes and captions are drawn, and truncation changes nothing. Sources are noise.

    Args:
        spec: the model.
        seed: 0 to 2^64 - 1.
        first_index: 0 to 2^64 - 1.
        count: number of images; first_index + count at most 2^64.
        source_size: height and width of the sources. Default: `Source.sample_size`.
    """
    drawn = draw_classes(seed, first_index, count, spec.num_choices) if spec.num_choices else None
    captions = spec.captions
    z = None
    if spec.z_dim:
        z = draw_latents(seed, first_index, count, spec.z_dim, distribution=spec.distribution)
    return Batch(
        z=z,
        class_id=drawn if spec.conditional else None,
        tokens=captions.example_tokens[drawn] if captions is not None else None,
        truncation=np.ones(count, np.float32) if spec.takes_psi else None,
        source=None
        if spec.source is None
        else _draw_sources(spec.source, seed, first_index, count, source_size),
    )


def _draw_sources(
    source: Source, seed: int, first_index: int, count: int, size: tuple[int, int] | None
) -> npt.NDArray[np.uint8]:
    """Returns sources of noise; half of a mask is 255."""
    shape = (*(size or source.sample_size), source.depth)
    noise = draw_bytes(seed, first_index, count, math.prod(shape)).reshape(count, *shape)
    if source.has_mask:
        mask = noise[..., -1]
        mask[:] = np.where(mask < _HALF, 0, _WHITE)
    return noise


def count_rows(feed: Mapping[str, npt.NDArray[Any]]) -> int:
    """Returns the number of rows of a feed."""
    return len(next(iter(feed.values())))


def select_rows(feed: Mapping[str, npt.NDArray[Any]], start: int, stop: int) -> Feed:
    """Returns the rows `start` to `stop - 1` of a feed."""
    return {name: value[start:stop] for name, value in feed.items()}
