"""Every figure of one sample of generated images, beside that of real ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemint.training.evaluation.extractors import Extractor, Looks
from imagemint.training.evaluation.reals import STACKED, Reals, nearest_pixels
from imagemint.training.metrics import (
    chance_code_accuracy,
    class_accuracy,
    code_class_accuracy,
    count_modes,
    coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    mode_floor,
    mode_score,
    neighbourhoods,
    perfect_sampler_floor,
    reverse_kl,
    two_sample_accuracy,
)

NEIGHBOURS = 5
# A generated image nearer to a training image than this share of the typical distance between a
# test image and its nearest training image is called a copy. Pixel space, where a copy is a copy.
_COPY_SHARE = 0.25
_PAIRS = 2_000  # of each side in the two-sample test
_SPLITS = 10


@dataclass(frozen=True)
class Measured:
    """One figure.

    Attributes:
        metric: its name.
        value: of the generated images.
        how: what it is, and what its reference is.
        reference: of real images, or of a perfect sampler.
    """

    metric: str
    value: float
    how: str
    reference: float | None = None


@dataclass(frozen=True)
class Sample:
    """Generated images and what is seen in them.

    Attributes:
        images: uint8 [N, H, W, C].
        classes: asked for, int64 [N]; None of an unconditional model.
        looks: features by the extractor.
        judged: classes by the judge; None where there is none who knows these classes.
        coded: whether ``classes`` are codes, which found their meaning by themselves.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.int64] | None
    looks: Looks
    judged: Looks | None
    coded: bool = False


def measure(reals: Reals, sample: Sample, judge: Extractor | None) -> list[Measured]:
    """Returns all figures that make sense of a sample.

    Accuracy needs classes asked for, or codes; modes are counted of models without classes; scores
    need a judge who knows the classes of the data; copies are not looked for among stacks.
    """
    return [
        *_classes(reals, sample, judge),
        *_distances(reals, sample),
        *_copies(reals, sample),
        *_neighbours(reals, sample),
        *_scores(reals, sample),
    ]


def _classes(reals: Reals, sample: Sample, judge: Extractor | None) -> Iterator[Measured]:
    if sample.judged is None:
        return
    if sample.classes is None:
        yield from _modes(reals, sample.judged)
        return
    if sample.coded:
        yield _codes(sample.classes, sample.judged, judge)
        yield from _modes(reals, sample.judged)
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


def _codes(codes: NDArray[np.int64], judged: Looks, judge: Extractor | None) -> Measured:
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


def _modes(reals: Reals, judged: Looks) -> Iterator[Measured]:
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


def _distances(reals: Reals, sample: Sample) -> Iterator[Measured]:
    fake, real, other = sample.looks.features, reals.real.features, reals.other.features
    count = f"{len(real):,} test images"
    as_many = fake[: len(real)] if reals.dataset == STACKED else fake
    yield Measured(
        "frechet_distance",
        frechet_distance(as_many, real),
        f"in feature space, against the {count}; reference: as many"
        " training images against them (the floor)",
        frechet_distance(other, real),
    )
    some = real[reals.some]
    yield Measured(
        "coverage",
        coverage(some, fake, NEIGHBOURS),
        f"k = {NEIGHBOURS}, {len(some):,} test images, in feature space; reference:"
        " as many training images in place of the generated",
        coverage(some, other[: len(fake)], NEIGHBOURS),
    )


def _copies(reals: Reals, sample: Sample) -> Iterator[Measured]:
    if reals.typical_copies is None:
        return
    few = reals.few_of(len(sample.images))
    limit = _COPY_SHARE * np.median(reals.typical_copies)
    distances, _ = nearest_pixels(sample.images[few], reals.train.images)
    yield Measured(
        "training_copies",
        float((distances < limit).mean()),
        f"share of {len(few):,} images whose nearest training image, in pixels, is nearer"
        f" than {_COPY_SHARE} of the median for test images; reference: the test images",
        float((reals.typical_copies < limit).mean()),
    )


def _neighbours(reals: Reals, sample: Sample) -> Iterator[Measured]:
    fake, real, other = sample.looks.features, reals.real.features, reals.other.features
    rivals = "reference: training images in place of the generated"
    yield Measured(
        "kernel_distance",
        kernel_distance(fake, real),
        f"unbiased squared MMD, kernel (x.y / d + 1)^3, in feature space; {rivals}",
        kernel_distance(other, real),
    )
    size = min(len(fake), len(other), len(reals.some))
    some = real[reals.some[:size]]
    found = neighbourhoods(some, fake[:size], NEIGHBOURS)
    floor = neighbourhoods(some, other[:size], NEIGHBOURS)
    for metric, what in (
        ("precision", "share of generated images among real ones"),
        ("recall", "share of real images among generated ones"),
        ("density", "real neighbourhoods that a generated image lies in, over k"),
    ):
        how = f"{what}, k = {NEIGHBOURS}, {size:,} of each, in feature space; {rivals}"
        yield Measured(metric, getattr(found, metric), how, getattr(floor, metric))
    pairs = min(size, _PAIRS)
    yield Measured(
        "two_sample_accuracy",
        two_sample_accuracy(some[:pairs], fake[:pairs]),
        f"share of {pairs:,} test and {pairs:,} generated images whose nearest neighbour is of"
        f" their own kind, in feature space, 0.5 where none can tell; {rivals}",
        two_sample_accuracy(some[:pairs], other[:pairs]),
    )


def _scores(reals: Reals, sample: Sample) -> Iterator[Measured]:
    fake, real = sample.looks.log_probabilities, reals.real.log_probabilities
    splits = min(_SPLITS, len(fake), len(real))
    yield Measured(
        "inception_score",
        inception_score(fake, splits=splits),
        f"exp of the mean KL(p(y|x) | p(y)), in {splits} parts; reference: the test images",
        inception_score(real, splits=splits),
    )
    if sample.judged is None:
        return
    judged, known = sample.judged.log_probabilities, sample.judged is sample.looks
    yield Measured(
        "mode_score",
        mode_score(judged, reals.shares, splits=splits),
        f"the same of the judge, over exp KL(p(y) | training shares), in {splits} parts;"
        " reference: the test images",
        mode_score(real, reals.shares, splits=splits) if known else None,
    )
