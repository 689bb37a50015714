"""Compares two sources of the same images, to measure the loss of quality of a cheaper one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemint.training.data_options import DataOptions
from imagemint.training.evaluation.extractors import Extractor, judge_of_classes
from imagemint.training.evaluation.real_images import load_real_images
from imagemint.training.evaluation.sources import Source
from imagemint.training.metrics import class_accuracy, frechet_distance

_SEEN = 10_000  # number of test images for the comparison
_FIRST_SEED = 1_000  # not the seeds that anything was tuned with


@dataclass(frozen=True)
class Difference:
    """Absolute differences of single values of the same images, in levels of 255.

    Attributes:
        images: number of compared images.
        mean: mean of all values.
        maximum: maximum of all values.
        differing_share: share of values that differ at all.
        over_one_share: share of those that differ by more than one level.
    """

    images: int
    mean: float
    maximum: int
    differing_share: float
    over_one_share: float


@dataclass(frozen=True)
class Comparison:
    """One figure of both sources, the mean over the seeds.

    Attributes:
        metric: name of the figure.
        value: value of the compared source.
        model: value of the reference.
        noise: standard deviation of the reference over the seeds, or the effect of one image, if
            that is larger.
        loss: how much worse the value is; negative if it is better.
    """

    metric: str
    value: float
    model: float
    noise: float
    loss: float


@dataclass(frozen=True)
class Compared:
    """The result of a comparison.

    Attributes:
        difference: difference of the pixels.
        figures: Frechet distance and, if classes can be requested and recognised, their accuracy.
        protocol: description of the method.
        samples: images of a seed.
        seeds: number of seeds.
    """

    difference: Difference
    figures: tuple[Comparison, ...]
    protocol: str
    samples: int
    seeds: int


def compare(
    model: Source,
    other: Source,
    extractor: Extractor,
    judge: Extractor | None,
    data: Path | None,
    *,
    samples: int,
    seeds: int,
    dataset: str | None = None,
    reading: DataOptions | None = None,
) -> Compared:
    """Returns how images of ``other`` differ from those of ``model`` for the same serials.

    Args:
        model: the reference, whose noise is measured, too.
        other: the source that is compared with it.
        extractor: network whose features are compared.
        judge: network that classifies the images; None if there is none.
        data: folder of the data sets.
        samples: images of a seed, the classes in turn.
        seeds: how many, 2 or more.
        dataset: name or path of the data set. None: that of the model, else of the extractor.
        reading: options for reading the data set.

    Raises:
        DatasetError: the model does not name its data set, or the data set is missing.
    """
    dataset = dataset or model.dataset or (extractor.trained_on or "").rpartition("/")[0]
    test = load_real_images("test", dataset, model, data, reading)
    real = extractor.extract(test.images[:_SEEN]).features
    judge = judge_of_classes(judge, test)
    totals = _Totals()
    rounds: dict[str, list[tuple[float, float]]] = {}
    for seed in range(_FIRST_SEED, _FIRST_SEED + seeds):
        (ours, classes), (theirs, _) = (each.draw(seed, 0, samples) for each in (model, other))
        totals.add(ours, theirs)
        both = [
            _compute_figures(images, classes, extractor, judge, real) for images in (ours, theirs)
        ]
        for metric, value in both[0].items():
            rounds.setdefault(metric, []).append((value, both[1][metric]))
    judges = [extractor.description] + (
        [judge.description] if judge not in (None, extractor) else []
    )
    turns = ", classes in turn" if model.num_classes else ""
    return Compared(
        totals.compute_difference(),
        tuple(_compare(metric, values, samples) for metric, values in rounds.items()),
        f"seeds {_FIRST_SEED} to {_FIRST_SEED + seeds - 1}, indices 0 to {samples - 1}{turns}; "
        f"against {len(real):,} test images of {test.name.rpartition('/')[0]}; {'; '.join(judges)}",
        samples,
        seeds,
    )


class _Totals:
    """Sums up differences of batches, because all images together are too large."""

    def __init__(self) -> None:
        self._levels = np.zeros(256, np.int64)
        self._images = 0

    def add(self, ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> None:
        differences = np.maximum(ours, theirs) - np.minimum(ours, theirs)
        self._levels += np.bincount(differences.ravel(), minlength=256)
        self._images += len(ours)

    def compute_difference(self) -> Difference:
        values = self._levels.sum()
        return Difference(
            self._images,
            float(self._levels @ np.arange(256) / values),
            int(self._levels.nonzero()[0].max()),
            float(self._levels[1:].sum() / values),
            float(self._levels[2:].sum() / values),
        )


def _compute_figures(
    images: NDArray[np.uint8],
    classes: NDArray[np.int64] | None,
    extractor: Extractor,
    judge: Extractor | None,
    real: NDArray[np.float64],
) -> dict[str, float]:
    extracted = extractor.extract(images)
    figures = {"frechet_distance": frechet_distance(extracted.features, real)}
    if judge is not None and classes is not None:
        judged = extracted if judge is extractor else judge.extract(images)
        figures["class_accuracy"] = class_accuracy(classes, judged.classes).mean
    return figures


def _compare(metric: str, rounds: list[tuple[float, float]], samples: int) -> Comparison:
    ours, theirs = (np.array(values) for values in zip(*rounds, strict=True))
    change = float(theirs.mean() - ours.mean())
    distance = metric == "frechet_distance"
    least = 0.0 if distance else 1 / samples
    return Comparison(
        metric,
        float(theirs.mean()),
        float(ours.mean()),
        max(float(ours.std(ddof=1)), least),
        change if distance else -change,
    )
