"""The real side of every comparison, looked at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import LabelledImages
from imagemint.training.evaluation.extractors import Extractor, Looks
from imagemint.training.metrics import nearest_neighbours

STACKED = "stacked-mnist"
_MOST = 10_000  # test images looked at, as many training images as their rivals
_SOME = 3_000  # real images whose neighbourhoods are compared
_FEW = 2_000  # images whose pixels are compared with all training images
_BLOCK = 10_000  # training images whose pixels are held as floats at once


@dataclass(frozen=True)
class Reals:
    """A data set as it is seen.

    Attributes:
        dataset: its name.
        train: all training images.
        test: test images, the first 10,000 at most.
        real: what is seen in the test images.
        other: what is seen in as many training images: generated images of the best kind.
        some: up to 3,000 rows of ``real``.
        typical_copies: distances, in pixels, from test images to their nearest training image;
            None of stacks, which are drawn and not collected.
        shares: share of each class in the training data: float64 [K].
        rng: what draws rows next; the draws above came from it.
    """

    dataset: str
    train: LabelledImages
    test: NDArray[np.uint8]
    real: Looks
    other: Looks
    some: NDArray[np.int64]
    typical_copies: NDArray[np.float64] | None
    shares: NDArray[np.float64]
    rng: np.random.Generator

    def few_of(self, count: int) -> NDArray[np.int64]:
        """Draws up to 2,000 rows of so many."""
        return self.rng.permutation(count)[:_FEW]


def look_at_reals(
    dataset: str, train: LabelledImages, test: LabelledImages, extractor: Extractor
) -> Reals:
    """Returns a data set as an extractor sees it; the rows drawn are always the same."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    images = test.images[:_MOST]
    rows = rng.permutation(len(train))[: len(images)]
    real, other = extractor.look(images), extractor.look(train.images[rows])
    some = rng.permutation(len(images))[:_SOME]
    stacks = dataset == STACKED
    return Reals(
        dataset=dataset,
        train=train,
        test=images,
        real=real,
        other=other,
        some=some,
        typical_copies=None if stacks else nearest_pixels(images[:_FEW], train.images)[0],
        shares=_shares(train, stacks=stacks),
        rng=rng,
    )


def _shares(train: LabelledImages, *, stacks: bool) -> NDArray[np.float64]:
    if not stacks:
        return np.bincount(train.labels, minlength=len(train.class_labels)) / len(train)
    # The digits of a stack are drawn apart, so shares of stacks are products. Counting a thousand
    # classes instead would add a noise of (K - 1) / 2N = 0.004 to every divergence from them.
    spelt = np.concatenate([train.labels // worth % 10 for worth in (100, 10, 1)])
    digit = np.bincount(spelt, minlength=10) / len(spelt)
    joint: NDArray[np.float64] = np.einsum("a,b,c->abc", digit, digit, digit).reshape(-1)
    return joint


def nearest_pixels(
    images: NDArray[np.uint8], known: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns how far, in pixels, the nearest of ``known`` is from each image, and which it is."""
    points = _flat(images)
    distances, rows = np.full(len(images), np.inf), np.zeros(len(images), np.int64)
    for start in range(0, len(known), _BLOCK):
        found, nearest = nearest_neighbours(points, _flat(known[start : start + _BLOCK]))
        nearer = found < distances
        distances[nearer], rows[nearer] = found[nearer], start + nearest[nearer]
    return distances, rows


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images.reshape(len(images), -1).astype(np.float64)
