"""Two collections of images without pairs, as for CycleGAN."""

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.images import LabelledImages
from imagemint.training.datasets.subsets import select_rows
from imagemint.training.datasets.translations.degradations import Images
from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.datasets.translations.pairs import Pairs
from imagemint.training.rng import ShuffledOrder, Stream


class UnpairedImages(Pairs):
    """Sources and targets in two independent orders.

    If the true target of a source is known, only `make_examples` returns it, to measure.

    Attributes:
        targets: the labelled images of the targets.

    Args:
        task: name of the task.
        data: all images.
        sources: rows of the sources int64 [A].
        targets: rows of the targets int64 [B].
        truth: the true targets of the sources uint8 [A, H, W, C]. None if they are unknown;
            `make_examples` then returns any targets.
    """

    paired = False

    def __init__(
        self,
        task: str,
        data: LabelledImages,
        sources: NDArray[np.int64],
        targets: NDArray[np.int64],
        truth: Images | None = None,
    ) -> None:
        height, width, channels = data.images.shape[1:]
        self.targets = select_rows(data, targets)
        super().__init__(
            task,
            select_rows(data, sources),
            form=SourceForm(height, width, channels),
            target_shape=(height, width, channels),
            parameters=f"to {self.targets.sha256}",
        )
        self.has_truth = truth is not None
        self._truth = truth
        self._orders: tuple[int, ShuffledOrder, ShuffledOrder] | None = None

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Images]:
        """Returns sources and targets, which do not belong together."""
        if self._orders is None or self._orders[0] != seed:
            self._orders = (
                seed,
                ShuffledOrder(len(self), seed),
                ShuffledOrder(len(self.targets), seed, Stream.TARGETS),
            )
        _, order, other = self._orders
        rows, others = order.list_indices(first, count), other.list_indices(first, count)
        return self.data.images[rows], self.targets.images[others]

    def make_examples(self, rows: NDArray[np.int64]) -> tuple[Images, Images]:
        """Returns sources and their true targets, which training must not use.

        Without true targets, those of the test split in turn.
        """
        if self._truth is not None:
            return self.data.images[rows], self._truth[rows]
        return self.data.images[rows], self.targets.images[rows % len(self.targets)]
