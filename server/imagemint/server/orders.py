"""A validated request for images, without gRPC: what is to be minted, and how it is named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from imagemint.engine.sampling import Run, drawn_classes
from imagemint.engine.serial import spelled
from imagemint.engine.spec import TruncationKind
from imagemint.server.batching import Job, Priority
from imagemint.server.repository import ServedVersion


class Condition(Protocol):
    """Rule that gives each image of a request its class."""

    def classes(
        self, seed: int, first_index: int, offset: int, count: int
    ) -> npt.NDArray[np.int64]:
        """Returns int64 [count] for the images ``offset`` to ``offset + count - 1`` of a request.

        Args:
            seed: the request's seed.
            first_index: index of the request's first image.
            offset: position within the request.
            count: images wanted.
        """


@dataclass(frozen=True)
class OneClass:
    """The same class for all."""

    class_id: int

    def classes(
        self, seed: int, first_index: int, offset: int, count: int
    ) -> npt.NDArray[np.int64]:
        """Returns the class, `count` times."""
        del seed, first_index, offset
        classes = np.empty(count, np.int64)  # np.full takes thrice as long for one
        classes.fill(self.class_id)
        return classes


@dataclass(frozen=True)
class PerImage:
    """A class for each image, by position within the request."""

    class_ids: npt.NDArray[np.int64]

    def classes(
        self, seed: int, first_index: int, offset: int, count: int
    ) -> npt.NDArray[np.int64]:
        """Returns the stretch that was asked for."""
        del seed, first_index
        return self.class_ids[offset : offset + count]


@dataclass(frozen=True)
class Cycle:
    """Classes in turn: index i gets the class at i mod size, whatever request it is part of."""

    class_ids: npt.NDArray[np.int64]

    def classes(
        self, seed: int, first_index: int, offset: int, count: int
    ) -> npt.NDArray[np.int64]:
        """Returns the stretch of the cycle."""
        del seed
        size = len(self.class_ids)
        return self.class_ids[((first_index + offset) % size + np.arange(count)) % size]


@dataclass(frozen=True)
class Drawn:
    """Classes from the seed's class stream, uniform or with given odds."""

    num_classes: int
    weights: Sequence[float] | None = None

    def classes(
        self, seed: int, first_index: int, offset: int, count: int
    ) -> npt.NDArray[np.int64]:
        """Returns the drawn classes."""
        return drawn_classes(
            seed, first_index + offset, count, self.num_classes, weights=self.weights
        )


@dataclass(slots=True)
class Minted:
    """What one image is."""

    index: int
    class_id: int | None
    serial: str


@dataclass(frozen=True)
class Order:
    """Images to be minted by one version of a model; every field is valid.

    Attributes:
        version: what mints them.
        seed: the reel; None exactly when `explicit_latents` are given.
        explicit_latents: float32 [count, z_dim], or None.
        priority: who goes first.
        first_index: index of the first image.
        count: number of images, 1 or more.
        condition: None for an unconditional model.
        truncation: within the model's range, or None.
    """

    version: ServedVersion
    seed: int | None
    first_index: int
    count: int
    condition: Condition | None
    truncation: float | None
    explicit_latents: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL

    def classes(self, offset: int, count: int) -> npt.NDArray[np.int64] | None:
        """Returns int64 [count], or None for an unconditional model."""
        if self.condition is None:
            return None
        return self.condition.classes(self.seed or 0, self.first_index, offset, count)

    def job(self, offset: int, count: int, deadline: float) -> Job:
        """Returns the work for the images ``offset`` to ``offset + count - 1`` of the order."""
        spec = self.version.spec
        threshold, psi = self.truncation, None
        if spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI:
            # A PSI graph always takes the input, and 1 leaves w where it is.
            threshold, psi = None, 1.0 if self.truncation is None else self.truncation
        draw: Callable[[int, int], tuple[Run] | npt.NDArray[np.float32]]
        if self.explicit_latents is not None:
            draw = partial(_cut, self.explicit_latents[offset : offset + count])
        else:
            draw = partial(_run, self.seed or 0, self.first_index + offset, threshold)
        return Job(count, draw, self.classes(offset, count), psi, deadline, self.priority)

    def minted(
        self, offset: int, class_id: npt.NDArray[np.int64] | None, count: int
    ) -> list[Minted]:
        """Returns what the images ``offset`` to ``offset + count - 1`` of the order are."""
        classes = [None] * count if class_id is None else class_id.tolist()
        images = enumerate(classes, start=self.first_index + offset)
        if self.seed is None:
            return [Minted(index, class_id, "") for index, class_id in images]
        name, number = self.version.spec.name, self.version.version
        spell = partial(spelled, name, number, self.seed, truncation=self.truncation)
        return [
            Minted(index, class_id, spell(index, class_id=class_id)) for index, class_id in images
        ]


def _cut(given: npt.NDArray[np.float32], start: int, stop: int) -> npt.NDArray[np.float32]:
    return given[start:stop]


def _run(seed: int, first_index: int, threshold: float | None, start: int, stop: int) -> tuple[Run]:
    return (Run(seed, first_index + start, stop - start, threshold),)
