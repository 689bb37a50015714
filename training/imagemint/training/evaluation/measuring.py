"""Measures all figures of a sample of generated images, and those of real ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.sufficiency import NEIGHBOURS
from imagemint.training.evaluation.copies import find_nearest_training_images
from imagemint.training.evaluation.extractors import Extracted, Extractor
from imagemint.training.evaluation.real_images import RealImages
from imagemint.training.metrics import (
    chance_code_accuracy,
    class_accuracy,
    class_coverage,
    code_class_accuracy,
    count_modes,
    coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    measure_neighbourhoods,
    mode_floor,
    mode_score,
    perfect_sampler_floor,
    reverse_kl,
    two_sample_accuracy,
    within_class_variety,
)

# A generated image nearer to a training image than this share of the typical distance between a
# test image and its nearest training image is called a copy.
_COPY_SHARE = 0.25
_PAIRS = 2_000  # points of each side in the two-sample test
_SPLITS = 10
_PLENTY = 3_000  # points of one side for a figure, in several samples if necessary
_MOST_SAMPLES = 10
_WITHIN = 100  # images of a class to search for the nearest neighbour

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One measured figure.

    Attributes:
        metric: name of the figure.
        value: value of the generated images.
        how: description of the figure and its reference.
        reference: value of real images, or of a perfect sampler.
        detail: what is different in each evaluation, such as numbers of images.
    """

    metric: str
    value: float
    how: str
    reference: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Sample:
    """Generated images with their features and classes.

    Attributes:
        images: uint8 [N, H, W, C].
        classes: requested classes, int64 [N]; None for an unconditional model.
        extracted: features by the extractor.
        judged: classes by the judge; None if no judge knows these classes.
        coded: whether ``classes`` are codes, to which training gave a meaning.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.int64] | None
    extracted: Extracted
    judged: Extracted | None
    coded: bool = False


def measure(reals: RealImages, sample: Sample, judge: Extractor | None) -> list[Measured]:
    """Returns all figures that apply to a sample.

    Accuracy needs requested classes, or codes. Modes are counted for models without classes. Scores
    need a judge that knows the classes of the data. Stacks are not searched for copies.

    Every distance and neighbourhood compares equally many generated and test images, and its
    reference as many training and test images, because all of them depend on these numbers. If the
    test set is small, both are means over several samples of its size.
    """
    return [
        *_measure_classes(reals, sample, judge),
        *_measure_distances(reals, sample),
        *_measure_variety(reals, sample),
        *_measure_copies(reals, sample),
        *_measure_neighbours(reals, sample),
        *_measure_scores(reals, sample),
    ]


def _measure_classes(
    reals: RealImages, sample: Sample, judge: Extractor | None
) -> Iterator[Measured]:
    if sample.judged is None:
        return
    if sample.classes is None:
        yield from _measure_modes(reals, sample.judged)
        return
    if sample.coded:
        yield _measure_codes(sample.classes, sample.judged, judge)
        yield from _measure_modes(reals, sample.judged)
        return
    accuracy = class_accuracy(sample.classes, sample.judged.classes)
    yield Measured(
        "class_accuracy",
        accuracy.mean,
        "share judged to be the class asked for; reference: the judge on the real test set",
        judge.accuracy if judge else None,
    )
    yield Measured(
        "worst_class_accuracy",
        accuracy.worst,
        f"the same for the worst class, {accuracy.worst_class}",
    )


def _measure_codes(
    codes: NDArray[np.int64], judged: Extracted, judge: Extractor | None
) -> Measured:
    found = code_class_accuracy(codes, judged.classes)
    meanings = ", ".join(f"{code} = {label}" for code, label in found.classes.items())
    return Measured(
        "code_class_accuracy",
        found.share,
        f"share judged to be the class assigned to its code, by the best one-to-one assignment"
        f" ({meanings}), as codes have no meaning beforehand (Chen et al., 2016); dealt at random"
        f" they reach {chance_code_accuracy(codes, judged.classes):.3f}; reference: the judge on"
        " the real test set",
        judge.accuracy if judge else None,
    )


def _measure_modes(reals: RealImages, judged: Extracted) -> Iterator[Measured]:
    count = len(judged.features)
    modes = count_modes(judged.classes, len(reals.shares))
    yield Measured(
        "modes",
        modes.reached,
        f"of {len(reals.shares)} classes, those that the judge sees at least once; reference: a"
        " perfect sampler",
        mode_floor(reals.shares, count),
    )
    yield Measured(
        "reverse_kl",
        reverse_kl(modes.shares, reals.shares),
        "KL(generated | real) of the classes that the judge sees, in nats; reference: a perfect"
        " sampler of as many (the floor)",
        perfect_sampler_floor(reals.shares, count),
    )


def _choose_size(reals: RealImages, sample: Sample, most: int) -> int:
    """Returns how many images of each kind a comparison takes."""
    kinds = sample.extracted, reals.real, reals.other
    return min(most, *(len(extracted.features) for extracted in kinds))


def _draw_samples(features: Features, size: int) -> list[Features]:
    """Returns disjoint samples of ``size`` points: one if that is large, up to ten if small."""
    rows = np.random.Generator(np.random.Philox(key=[0, 1])).permutation(len(features))
    number = min(len(features) // size, _PLENTY // size, _MOST_SAMPLES)
    return [features[rows[size * i : size * (i + 1)]] for i in range(max(number, 1))]


def _average(measured: Callable[[Features], float], points: Features, size: int) -> float:
    return float(np.mean([measured(sample) for sample in _draw_samples(points, size)]))


def _measure_distances(reals: RealImages, sample: Sample) -> Iterator[Measured]:
    fake, other = sample.extracted.features, reals.other.features
    size = _choose_size(reals, sample, len(fake))
    real = _draw_samples(reals.real.features, size)[0]
    yield Measured(
        "frechet_distance",
        _average(partial(frechet_distance, real), fake, size),
        "generated and as many test images, in feature space; reference: as many training images"
        " against the test images (the floor)",
        _average(partial(frechet_distance, real), other, size),
        f"{size:,} of each",
    )
    size = _choose_size(reals, sample, len(reals.sample_rows))
    real = reals.real.features[reals.sample_rows[:size]]
    yield Measured(
        "coverage",
        _average(partial(coverage, real, k=NEIGHBOURS), fake, size),
        f"k = {NEIGHBOURS}, {size:,} of each, in feature space; reference: training images in"
        " place of the generated",
        _average(partial(coverage, real, k=NEIGHBOURS), other, size),
    )


def _measure_variety(reals: RealImages, sample: Sample) -> Iterator[Measured]:
    """Yields the figures that are bad for a generator that ignores its latent."""
    classes = _resolve_classes(sample)
    if classes is None:
        return
    kinds = (
        (sample.extracted.features, classes),
        (reals.real.features, reals.test_classes),
        (reals.other.features, reals.other_classes),
    )
    fake, real, other = _select_equal_classes(*kinds)
    varied, usual = (within_class_variety(*each, *real, most=_WITHIN) for each in (fake, other))
    rivals = "training images in place of the generated"
    yield Measured(
        "within_class_variety",
        varied.mean,
        "mean distance to the nearest other image of the class, as a multiple of that of as many"
        f" test images, in feature space; 0 if each class is one image; lowest {varied.worst:.2f}"
        f" for class {varied.worst_class}; reference: {rivals}",
        usual.mean,
    )
    covered, coverable = (class_coverage(*each, *real, NEIGHBOURS) for each in (fake, other))
    yield Measured(
        "class_coverage",
        covered.mean,
        f"coverage of the test images of each class by generated ones of that class,"
        f" k = {NEIGHBOURS}, as many of each, mean over the classes; reference: {rivals}",
        coverable.mean,
    )
    yield Measured(
        "worst_class_coverage",
        covered.worst,
        f"the same of the worst class, {covered.worst_class}",
        coverable.worst,
    )


def _resolve_classes(sample: Sample) -> NDArray[np.int64] | None:
    """Returns the requested classes; for codes the classes assigned to them, or -1."""
    if sample.classes is None or not sample.coded:
        return sample.classes
    if sample.judged is None:
        return None
    meaning = code_class_accuracy(sample.classes, sample.judged.classes).classes
    return np.array([meaning.get(code, -1) for code in sample.classes.tolist()], np.int64)


def _select_equal_classes(
    *kinds: tuple[Features, NDArray[np.int64]],
) -> list[tuple[Features, NDArray[np.int64]]]:
    """Returns equally many points of each class from every kind: as many as the smallest has."""
    number = max(int(classes.max()) for _, classes in kinds) + 1
    counts = [np.bincount(classes[classes >= 0], minlength=number) for _, classes in kinds]
    least = np.min(counts, axis=0)
    found = []
    for features, classes in kinds:
        rows = [np.flatnonzero(classes == y)[: least[y]] for y in range(number)]
        chosen = np.concatenate(rows)
        found.append((features[chosen], classes[chosen]))
    return found


def _measure_copies(reals: RealImages, sample: Sample) -> Iterator[Measured]:
    if reals.typical_copies is None:
        return
    few = reals.select_few(len(sample.images))
    limit = _COPY_SHARE * np.median(reals.typical_copies)
    distances, _ = find_nearest_training_images(sample.images[few], reals.train.images)
    yield Measured(
        "training_copies",
        float((distances < limit).mean()),
        f"share of {len(few):,} images whose nearest training image, in pixels and under the best"
        f" small shift, is nearer than {_COPY_SHARE} of the median for test images; reference: the"
        " test images",
        float((reals.typical_copies < limit).mean()),
    )


def _measure_neighbours(reals: RealImages, sample: Sample) -> Iterator[Measured]:
    fake, other = sample.extracted.features, reals.other.features
    size = _choose_size(reals, sample, len(fake))
    real = _draw_samples(reals.real.features, size)[0]
    rivals = "reference: training images in place of the generated"
    yield Measured(
        "kernel_distance",
        _average(partial(kernel_distance, real), fake, size),
        f"unbiased squared MMD, kernel (x.y / d + 1)^3, {size:,} of each, in feature space;"
        f" {rivals}",
        _average(partial(kernel_distance, real), other, size),
    )
    size = _choose_size(reals, sample, len(reals.sample_rows))
    real = reals.real.features[reals.sample_rows[:size]]
    found, floor = (
        [measure_neighbourhoods(real, each, NEIGHBOURS) for each in _draw_samples(points, size)]
        for points in (fake, other)
    )
    for metric, what in (
        ("precision", "share of generated images among real ones"),
        ("recall", "share of real images among generated ones"),
        ("density", "real neighbourhoods that a generated image lies in, over k"),
    ):
        how = f"{what}, k = {NEIGHBOURS}, {size:,} of each, in feature space; {rivals}"
        value, reference = (
            float(np.mean([getattr(each, metric) for each in one])) for one in (found, floor)
        )
        yield Measured(metric, value, how, reference)
    pairs = min(size, _PAIRS)
    yield Measured(
        "two_sample_accuracy",
        _average(partial(two_sample_accuracy, real[:pairs]), fake, pairs),
        f"share of {pairs:,} test and {pairs:,} generated images whose nearest neighbour is of"
        f" their own kind, in feature space, 0.5 where none can tell; {rivals}",
        _average(partial(two_sample_accuracy, real[:pairs]), other, pairs),
    )


def _measure_scores(reals: RealImages, sample: Sample) -> Iterator[Measured]:
    size = _choose_size(reals, sample, len(sample.images))
    fake, real = (
        _draw_samples(each.log_probabilities, size)[0] for each in (sample.extracted, reals.real)
    )
    splits = min(_SPLITS, size)
    yield Measured(
        "inception_score",
        inception_score(fake, splits=splits),
        f"exp of the mean KL(p(y|x) | p(y)), {size:,} of each in {splits} parts; reference: the"
        " test images",
        inception_score(real, splits=splits),
    )
    if sample.judged is None:
        return
    judged = _draw_samples(sample.judged.log_probabilities, size)[0]
    known = sample.judged is sample.extracted
    yield Measured(
        "mode_score",
        mode_score(judged, reals.shares, splits=splits),
        f"the same of the judge, over exp KL(p(y) | training shares), in {splits} parts;"
        " reference: the test images",
        mode_score(real, reals.shares, splits=splits) if known else None,
    )
