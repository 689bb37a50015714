"""Computes the features of the real images of all comparisons once."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemint.training.data_options import DataOptions
from imagemint.training.datasets import LabelledImages, Split
from imagemint.training.evaluation.copies import find_nearest_training_images
from imagemint.training.evaluation.extractors import Extracted, Extractor
from imagemint.training.evaluation.sources import Source

STACKED = "stacked-mnist"
_MOST = 10_000  # test images, and training images that take the place of generated ones
_SOME = 3_000  # real images whose neighbourhoods are compared
_FEW = 2_000  # images that are compared with all training images


@dataclass(frozen=True)
class RealImages:
    """The features and classes of a data set.

    Attributes:
        dataset: its name.
        train: all training images.
        test: test images, the first 10,000 at most.
        test_classes: their labels int64 [N].
        real: features of the test images.
        other: features of training images, which are as good as generated images can get. Up to
            10,000,
            whatever the number of test images, for several samples of a small test set's size.
        other_classes: labels of those.
        sample_rows: up to 3,000 rows of ``real``.
        typical_copies: distances from up to 2,000 random test images to their nearest training
            image, as `copies` measures them; None of stacks, which are drawn and not collected.
        shares: share of each class in the training data: float64 [K].
        rng: generator of random rows, after the draws above.
    """

    dataset: str
    train: LabelledImages
    test: NDArray[np.uint8]
    test_classes: NDArray[np.int64]
    real: Extracted
    other: Extracted
    other_classes: NDArray[np.int64]
    sample_rows: NDArray[np.int64]
    typical_copies: NDArray[np.float64] | None
    shares: NDArray[np.float64]
    rng: np.random.Generator

    def select_few(self, count: int) -> NDArray[np.int64]:
        """Draws up to 2,000 of this number of rows."""
        return self.rng.permutation(count)[:_FEW]


def load_real_images(
    split: Split,
    dataset: str,
    source: Source,
    data: Path | None,
    reading: DataOptions | None = None,
) -> LabelledImages:
    """Returns a split of a data set, of the size and colours of the images of a source.

    Classes come in the order of the source, if it has the same ones.

    Args:
        split: name of the split.
        dataset: name or path of the data set.
        source: the source to compare with the split.
        data: folder of the data sets.
        reading: options for reading the data set. None: those of the run, if the source is one.

    Raises:
        DatasetError: as in `load_dataset`.
    """
    height, width, channels = source.image_shape or (None, None, None)
    size = height if height == width else None
    options = reading or DataOptions.of_settings(getattr(source, "settings", {}))
    load = partial(options.load, dataset, split, data, size=size, channels=channels)
    found = load()
    ours, theirs = source.class_labels or (), found.class_labels
    return load(class_labels=ours) if ours != theirs and {*theirs} <= {*ours} else found


def extract_real_images(
    dataset: str, train: LabelledImages, test: LabelledImages, extractor: Extractor
) -> RealImages:
    """Returns the features of a data set; the drawn rows are always the same."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    images = test.images[:_MOST]
    rows = rng.permutation(len(train))[:_MOST]
    real, other = extractor.extract(images), extractor.extract(train.images[rows])
    sample_rows = rng.permutation(len(images))[:_SOME]
    stacks = dataset == STACKED
    # Random rows: the first half of MNIST's test set is neater than the second.
    copies = (
        None
        if stacks
        else find_nearest_training_images(images[sample_rows[:_FEW]], train.images)[0]
    )
    return RealImages(
        dataset=dataset,
        train=train,
        test=images,
        test_classes=test.labels[:_MOST],
        real=real,
        other=other,
        other_classes=train.labels[rows],
        sample_rows=sample_rows,
        typical_copies=copies,
        shares=_compute_shares(train, stacks=stacks),
        rng=rng,
    )


def _compute_shares(train: LabelledImages, *, stacks: bool) -> NDArray[np.float64]:
    if not stacks:
        return np.bincount(train.labels, minlength=len(train.class_labels)) / len(train)
    # The digits of a stack are drawn independently, so shares of stacks are products. Counting a
    # thousand classes instead would add a noise of (K - 1) / 2N = 0.004 to every divergence from
    # them.
    digits = np.concatenate([train.labels // worth % 10 for worth in (100, 10, 1)])
    shares = np.bincount(digits, minlength=10) / len(digits)
    joint: NDArray[np.float64] = np.einsum("a,b,c->abc", shares, shares, shares).reshape(-1)
    return joint
