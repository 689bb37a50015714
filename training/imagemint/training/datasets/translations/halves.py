"""Pairs of one's own: pictures whose halves are a source and its target."""

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.images import LabelledImages
from imagemint.training.datasets.translations.degradations import Images
from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.datasets.translations.pairs import Pairs
from imagemint.training.errors import DatasetError
from imagemint.training.rng import ShuffledOrder

LEFT_TO_RIGHT = "left-to-right"
RIGHT_TO_LEFT = "right-to-left"
HALVES = (LEFT_TO_RIGHT, RIGHT_TO_LEFT)
"""Tasks whose pictures have source and target side by side."""


class Halves(Pairs):
    """Sources and targets that stand side by side in each picture, as pix2pix publishes its data.

    Args:
        task: `LEFT_TO_RIGHT` or `RIGHT_TO_LEFT`.
        data: the pictures.

    Raises:
        DatasetError: the width of the pictures is odd.
    """

    def __init__(self, task: str, data: LabelledImages) -> None:
        height, width, channels = data.images.shape[1:]
        if width % 2:
            raise DatasetError(
                f"the pictures of {data.name} are {width} pixels wide; those with a source and a"
                " target side by side have an even width"
            )
        self._targets_are_left = task == RIGHT_TO_LEFT
        shape = height, width // 2, channels
        super().__init__(task, data, form=SourceForm(*shape), target_shape=shape, parameters="")
        self._order: tuple[int, ShuffledOrder] | None = None

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Images]:
        """Returns sources and targets at these positions."""
        if self._order is None or self._order[0] != seed:
            self._order = seed, ShuffledOrder(len(self), seed)
        return self.make_examples(self._order[1].list_indices(first, count))

    def make_examples(self, rows: NDArray[np.int64]) -> tuple[Images, Images]:
        """Returns sources and targets of these rows."""
        left, right = np.split(self.data.images[rows], 2, axis=2)
        return (right, left) if self._targets_are_left else (left, right)
