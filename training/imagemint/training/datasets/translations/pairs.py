"""Pairs of a source and its target, by position."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import compute_digest
from imagemint.training.datasets.images import LabelledImages
from imagemint.training.datasets.translations.degradations import Degradation, Images
from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.errors import DatasetError
from imagemint.training.rng import ShuffledOrder

_VERSION = 1  # increased when the sources of a task change
EXAMPLES = 0
"""Seed of the sources of an evaluation."""


class Pairs(ABC):
    """One split of one task. Every pair is a function of the data, a seed and its position.

    Attributes:
        task: name of the task.
        name: task, data set and split, such as ``edges of avatars64/train``.
        sha256: digest of the data and of the degradation.
        license: licence of the images.
        form: form of the sources.
        target_shape: height, width and channels of the targets.
        paired: whether a target that `draw` returns belongs to its source.
        has_truth: whether a target that `make_examples` returns belongs to its source.
        data: the labelled images that the sources of `make_examples` were made from, row by row.
    """

    paired = True
    has_truth = True

    def __init__(
        self,
        task: str,
        data: LabelledImages,
        *,
        form: SourceForm,
        target_shape: tuple[int, int, int],
        parameters: str,
    ) -> None:
        self.task = task
        self.name = f"{task} of {data.name}"
        self.sha256 = compute_digest([f"{data.sha256} {task} {parameters} {_VERSION}".encode()])
        self.license = data.license
        self.form = form
        self.target_shape = target_shape
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @abstractmethod
    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Images]:
        """Returns the pairs at positions ``first`` to ``first + count - 1`` of an endless order.

        The order is a new permutation in every epoch, and each epoch has random numbers of its own.

        Returns:
            Sources uint8 [count, H, W, depth] and targets uint8 [count, H', W', C'].
        """

    @abstractmethod
    def make_examples(self, rows: NDArray[np.int64]) -> tuple[Images, Images]:
        """Returns fixed pairs, those of these rows of ``data``: always the same for a row.

        Returns:
            Sources uint8 [N, H, W, depth] and true targets uint8 [N, H', W', C'].
        """


class DegradedImages(Pairs):
    """Images, and sources that a degradation makes of them.

    Args:
        task: name of the task.
        data: the targets.
        degradation: makes the sources.
        truth: the true targets of `make_examples`, row by row, where they are not ``data`` itself:
            uint8 [N, H, W, C].

    Raises:
        DatasetError: the images do not suit the degradation, or it does not name its parameters.
    """

    def __init__(
        self,
        task: str,
        data: LabelledImages,
        degradation: Degradation,
        truth: Images | None = None,
    ) -> None:
        if type(degradation).__repr__ is object.__repr__:
            # It has an address, so a process that resumes the run would see other pairs.
            raise DatasetError(
                f"{type(degradation).__name__} has no repr of its parameters; make it a frozen"
                " dataclass"
            )
        height, width, channels = data.images.shape[1:]
        super().__init__(
            task,
            data,
            form=degradation.compute_source_form(height, width, channels),
            target_shape=(height, width, channels),
            parameters=repr(degradation),
        )
        self.degradation = degradation
        self._truth = data.images if truth is None else truth
        self._order: tuple[int, ShuffledOrder] | None = None

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Images]:
        """Returns sources and targets at these positions."""
        if self._order is None or self._order[0] != seed:
            self._order = seed, ShuffledOrder(len(self), seed)
        rows = self._order[1].list_indices(first, count)
        positions = np.arange(first, first + count)
        return self.degradation(self.data.images[rows], seed, positions), self._truth[rows]

    def make_examples(self, rows: NDArray[np.int64]) -> tuple[Images, Images]:
        """Returns sources and targets of these rows."""
        return self.degradation(self.data.images[rows], EXAMPLES, rows), self._truth[rows]
