"""Measures the quality of a generator during training: a few figures at every checkpoint."""

import numpy as np
from torch import nn

from imagemint.engine.sampling import Distribution, draw_latents
from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.sufficiency import COMPARABLE, NEIGHBOURS
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation.extractors import (
    Extracted,
    Extractor,
    StackedJudge,
    judge_of_classes,
)
from imagemint.training.evaluation.real_images import STACKED
from imagemint.training.loop.samples import generate_images
from imagemint.training.metrics import (
    class_accuracy,
    code_class_accuracy,
    count_modes,
    coverage,
    frechet_distance,
)
from imagemint.training.recipes.recipe import Recipe

CURVE_SAMPLES = 5_000
"""Generated images for a point of the curve; fewer if there are fewer test images."""
_COVERED = 3_000


class QualityCurve:
    """Measures the generator of a run at a checkpoint.

    The figures are those of `imagemint evaluate` on fewer images: the first ones of seed 0, with
    the classes in turn, against as many test images, drawn at random and always the same. They show
    how a run proceeds, for a few seconds of one core; the figures to quote come from `imagemint
    evaluate`.

    Args:
        recipe: recipe of the run.
        train: its training images.
        test: test images of the same data set and shape.
        extractor: network that computes features of the images.

    Raises:
        DatasetError: there are fewer than six test images.
    """

    def __init__(
        self, recipe: Recipe, train: LabelledImages, test: LabelledImages, extractor: Extractor
    ) -> None:
        if len(test) < COMPARABLE:
            raise DatasetError(
                f"{test.name} has {len(test)} images, too few to compare with: at least"
                f" {COMPARABLE}"
            )
        self._recipe = recipe
        if train.name.partition("/")[0] == STACKED:
            extractor = StackedJudge(extractor)
        self._extractor = extractor
        self._labels = recipe.list_class_labels(train.class_labels)
        self._num_classes = len(train.class_labels)
        self._knows_classes = judge_of_classes(extractor, train) is not None
        self._count = min(CURVE_SAMPLES, len(test), len(train))
        rng = np.random.Generator(np.random.Philox(key=[0, 0]))
        rows = np.sort(rng.permutation(len(train))[: self._count])
        # Not the first ones: MNIST's test set begins with 5,000 digits that are neater than the
        # rest (https://yann.lecun.com/exdb/mnist), so that its floor would be four times as high.
        tested = rng.permutation(len(test))[: self._count]
        self._real = extractor.extract(test.images[tested]).features
        other = extractor.extract(train.images[rows]).features
        self._floor = frechet_distance(self._real, other)

    def __call__(self, generator: nn.Module) -> dict[str, float]:
        """Returns figures by their names in the log.

        ``frechet_over_floor``: the Frechet distance as a multiple of that of as many training
        images; left out if that is 0, as for a test set of training images. ``coverage``. Where the
        extractor knows the classes, ``class_accuracy`` (of a generator with codes by their best
        assignment) or ``modes``.
        """
        recipe = self._recipe
        z = draw_latents(
            *(0, 0, self._count, recipe.z_dim), distribution=Distribution(recipe.latent)
        )
        classes = np.arange(self._count) % len(self._labels) if self._labels else None
        extracted = self._extractor.extract(generate_images(generator, z, classes))
        few = slice(0, _COVERED)
        figures = {"coverage": coverage(self._real[few], extracted.features[few], NEIGHBOURS)}
        if self._floor > 0:
            distance = frechet_distance(self._real, extracted.features)
            figures["frechet_over_floor"] = distance / self._floor
        return figures | (self._judge(extracted, classes) if self._knows_classes else {})

    def _judge(self, extracted: Extracted, classes: np.ndarray | None) -> dict[str, float]:
        if classes is None:
            return {"modes": float(count_modes(extracted.classes, self._num_classes).reached)}
        if self._recipe.condition == "code":
            return {"class_accuracy": code_class_accuracy(classes, extracted.classes).share}
        return {"class_accuracy": class_accuracy(classes, extracted.classes).mean}
