"""A validated request for images, independent of gRPC: its latents, classes and serials."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import Run, drawn_class, drawn_classes
from imagemint.engine.serial import spelled
from imagemint.engine.spec import TruncationKind
from imagemint.server.batching import Job, Priority
from imagemint.server.repository import ServedVersion


class Condition(Protocol):
    """The rule that determines the class of each image of a request."""

    def list_classes(self, seed: int, first_index: int, offset: int, count: int) -> list[int]:
        """Returns the classes of the images ``offset`` to ``offset + count - 1`` of a request.

        Args:
            seed: the request's seed.
            first_index: index of the request's first image.
            offset: position within the request.
            count: number of images.
        """


class OneClass(NamedTuple):
    """The same class for all images."""

    class_id: int

    def list_classes(self, seed: int, first_index: int, offset: int, count: int) -> list[int]:
        """Returns the class `count` times."""
        del seed, first_index, offset
        return [self.class_id] * count


class ClassPerImage(NamedTuple):
    """A list with the class of each image, by position within the request."""

    class_ids: npt.NDArray[np.int32]

    def list_classes(self, seed: int, first_index: int, offset: int, count: int) -> list[int]:
        """Returns the classes at these positions."""
        del seed, first_index
        classes: list[int] = self.class_ids[offset : offset + count].tolist()
        return classes


class ClassCycle(NamedTuple):
    """Classes in turn: the image of index i gets the class at i mod size, in every request."""

    class_ids: npt.NDArray[np.int32]

    def list_classes(self, seed: int, first_index: int, offset: int, count: int) -> list[int]:
        """Returns the classes of these indices; the cost depends on `count` alone."""
        del seed
        size = len(self.class_ids)
        first = (first_index + offset) % size
        if count == 1:
            return [int(self.class_ids[first])]
        classes: list[int] = self.class_ids[np.arange(first, first + count) % size].tolist()
        return classes


class RandomClasses(NamedTuple):
    """Classes from the seed's class stream, uniform or with given weights."""

    num_classes: int
    weights: Sequence[float] | None = None

    def list_classes(self, seed: int, first_index: int, offset: int, count: int) -> list[int]:
        """Returns the classes that the seed's class stream gives these indices."""
        first = first_index + offset
        if count == 1 and self.weights is None:
            return [drawn_class(seed, first, self.num_classes)]
        classes: list[int] = drawn_classes(
            seed, first, count, self.num_classes, weights=self.weights
        ).tolist()
        return classes


@dataclass(slots=True)  # not frozen: creation for each call would take three times as long
class ImageRequest:
    """A validated request for images of one version of a model. Every field is valid.

    Attributes:
        version: the version that computes the images.
        seed: the seed; None if and only if `explicit_latents` are given.
        first_index: index of the first image.
        count: number of images, 1 or more.
        condition: the rule for the classes; None for an unconditional model.
        truncation: truncation within the model's range, or None.
        explicit_latents: float32 [count, z_dim], or None.
        priority: priority in the queue.
    """

    version: ServedVersion
    seed: int | None
    first_index: int
    count: int
    condition: Condition | None
    truncation: float | None
    explicit_latents: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL

    def list_classes(self, offset: int, count: int) -> list[int] | None:
        """Returns the classes of `count` images, or None for an unconditional model."""
        if self.condition is None:
            return None
        return self.condition.list_classes(self.seed or 0, self.first_index, offset, count)

    def make_job(self, offset: int, count: int, deadline: float) -> Job:
        """Returns the job for the images ``offset`` to ``offset + count - 1`` of the request."""
        spec = self.version.spec
        threshold, psi = self.truncation, None
        if spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI:
            # A PSI graph always takes the input. At 1, w stays unchanged.
            threshold, psi = None, 1.0 if self.truncation is None else self.truncation
        draw: Callable[[int, int], tuple[Run] | npt.NDArray[np.float32]]
        if self.explicit_latents is not None:
            draw = partial(_slice_latents, self.explicit_latents[offset : offset + count])
        else:
            draw = partial(_make_run, self.seed or 0, self.first_index + offset, threshold)
        return Job(count, draw, self.list_classes(offset, count), psi, deadline, self.priority)

    def make_serials(self, offset: int, classes: Sequence[int | None]) -> list[str]:
        """Returns the serials of the images from ``offset`` on; empty texts for given latents.

        Args:
            offset: position within the request.
            classes: class of each image; None for an unconditional model.
        """
        if self.seed is None:
            return [""] * len(classes)
        name, number, variant = (
            *(self.version.spec.name, self.version.version),
            self.version.backend.variant.name_in_serials,
        )
        seed, truncation = self.seed, self.truncation
        return [
            spelled(name, number, seed, index, class_id, truncation, variant)
            for index, class_id in enumerate(classes, self.first_index + offset)
        ]


def _slice_latents(
    given: npt.NDArray[np.float32], start: int, stop: int
) -> npt.NDArray[np.float32]:
    return given[start:stop]


def _make_run(
    seed: int, first_index: int, threshold: float | None, start: int, stop: int
) -> tuple[Run]:
    return (Run(seed, first_index + start, stop - start, threshold),)
