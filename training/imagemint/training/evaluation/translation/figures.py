"""Computes figures of results, compared with the true images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import LabelledImages
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.metrics import (
    absolute_error,
    count_scales,
    frechet_distance,
    kernel_distance,
    multiscale_structural_similarity,
    peak_signal_noise_ratio,
    sharpness,
    structural_similarity,
)

Images = NDArray[np.uint8]

_GLASSES, _NONE = "accessories", "none"


@dataclass(frozen=True)
class Figure:
    """A figure of one kind of results.

    Attributes:
        metric: name of the figure.
        value: value of the results.
        how: description of the figure and its reference.
        error: standard error of the mean over the images; None for a figure that is not a mean.
        reference: value of the true images; None if it has no meaning.
        count: number of images; None for all of the evaluation.
        detail: what the value is made of.
    """

    metric: str
    value: float
    how: str
    error: float | None = None
    reference: float | None = None
    count: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Truth:
    """The images to compare results with.

    Attributes:
        images: the true images of the same sources, uint8 [N, H, W, C]; without them, real targets.
        others: equally many training targets, for distances between distributions.
        labels: labels and attributes of the images, row by row.
        removes: attribute that a translator should set to ``none``; empty for none.
        is_paired: whether the images belong to the sources.
    """

    images: Images
    others: Images
    labels: LabelledImages
    removes: str = ""
    is_paired: bool = True


def compute_mean_figure(
    metric: str, values: NDArray[np.float64], how: str, reference: float | None = None
) -> Figure:
    """Returns the mean over images float64 [N], with its standard error."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Figure(metric, float(values.mean()), how, error, reference, len(values))


def measure_results(
    results: Images, truth: Truth, judge: Judge | None, holes: NDArray[np.bool_] | None = None
) -> Iterator[Figure]:
    """Yields the figures that apply to every task.

    Args:
        results: uint8 [N, H, W, C].
        truth: the true images.
        judge: classifier of the images; None if no figure needs one.
        holes: hidden pixels of the sources, bool [N, H, W]; None without holes.
    """
    if truth.is_paired:
        yield from _measure_pixels(results, truth.images, holes)
    yield from _measure_sharpness(results, truth.images)
    if judge is None:
        return
    if not truth.is_paired:
        yield from _measure_distributions(results, truth, judge)
        yield from _measure_class(results, truth, judge)
        return
    yield compute_mean_figure(
        "feature_distance",
        judge.compute_distances(results, truth.images),
        "squared difference of normalised activations of the judge, added up over its depths (LPIPS"
        " without learnt weights); reference: two true images of different sources",
        float(judge.compute_distances(truth.images, np.roll(truth.images, 1, axis=0)).mean()),
    )
    yield from _measure_distributions(results, truth, judge)
    yield from measure_attributes(results, truth, judge)


def _measure_pixels(
    results: Images, truth: Images, holes: NDArray[np.bool_] | None
) -> Iterator[Figure]:
    yield compute_mean_figure(
        "psnr", peak_signal_noise_ratio(results, truth), "dB, mean over the images, at most 58.9"
    )
    if holes is not None:
        yield compute_mean_figure(
            "psnr_in_hole",
            peak_signal_noise_ratio(results, truth, holes),
            "dB, of the pixels below the mask only",
        )
    yield compute_mean_figure(
        "ssim", structural_similarity(results, truth), "Gaussian window of 11 pixels, torchmetrics"
    )
    scales = count_scales(min(truth.shape[1:3]))
    yield compute_mean_figure(
        "ms_ssim",
        multiscale_structural_similarity(results, truth),
        f"SSIM over the {scales} scales that the window fits in, torchmetrics",
    )


def _measure_sharpness(results: Images, truth: Images) -> Iterator[Figure]:
    """Yields the sharpness, unless the true images are all flat."""
    level = sharpness(truth).mean()
    if not level:
        return
    yield Figure(
        "sharpness",
        float(sharpness(results).mean() / level),
        "mean difference of neighbouring pixels, as a multiple of that of the true images",
        reference=1.0,
    )


def _measure_distributions(results: Images, truth: Truth, judge: Judge) -> Iterator[Figure]:
    """Yields distances from training targets: a perfect translator has exactly the reference."""
    found, real, others = (
        judge.extract(each).features for each in (results, truth.images, truth.others)
    )
    rivals = (
        "results and as many training images in the features of the judge; reference: the true"
        " images in place of the results (the floor)"
    )
    yield Figure(
        "frechet_distance",
        frechet_distance(others, found),
        rivals,
        reference=frechet_distance(others, real),
    )
    yield Figure(
        "kernel_distance",
        kernel_distance(others, found),
        f"unbiased squared MMD, kernel (x.y / d + 1)^3, {rivals}",
        reference=kernel_distance(others, real),
    )


def _measure_class(results: Images, truth: Truth, judge: Judge) -> Iterator[Figure]:
    """Yields how often the judge sees the class of the targets, if it knows the data."""
    if not _knows_labels(judge, truth.labels):
        return
    seen, seen_real = (
        judge.extract(images).classes == truth.labels.labels for images in (results, truth.images)
    )
    yield compute_mean_figure(
        "target_class",
        seen.astype(np.float64),
        "share of the results in which the judge sees the class of the targets; reference: the"
        " judge on real images of this class",
        float(seen_real.mean()),
    )


def _knows_labels(judge: Judge, labels: LabelledImages) -> bool:
    return judge.trained_on is not None and judge.trained_on.rpartition("/")[0] == _get_data_set(
        labels
    )


def measure_attributes(results: Images, truth: Truth, judge: Judge) -> Iterator[Figure]:
    """Yields how often the judge recognises the attributes of the true image in a result.

    Attributes that a picture does not show do not count. Yields nothing if the judge knows other
    data.
    """
    labels = truth.labels
    if not _knows_labels(judge, labels):
        return
    shares, true_shares = (
        _compute_shares(results, truth, judge),
        _compute_shares(truth.images, truth, judge),
    )
    removed = shares.pop(truth.removes, None), true_shares.pop(truth.removes, None)
    detail = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    yield Figure(
        "attributes_kept",
        float(np.mean([*shares.values()])),
        "share of the results in which the judge sees what the true image is known to show, mean"
        " over class and attributes; reference: the judge on the true images",
        reference=float(np.mean([*true_shares.values()])),
        detail=detail,
    )
    if removed[0] is not None:
        yield Figure(
            "glasses_removed",
            removed[0],
            "share of the results in which the judge sees no glasses; reference: the judge on the"
            " true images without them",
            reference=removed[1],
        )


def _compute_shares(images: Images, truth: Truth, judge: Judge) -> dict[str, float]:
    """Returns the share of correct values of the class and each attribute, by name."""
    labels = truth.labels
    shares = {"class": float((judge.extract(images).classes == labels.labels).mean())}
    predicted = judge.predict_attributes(images)
    for attribute in labels.attributes:
        if attribute.name not in predicted:
            continue
        expected = attribute.codes
        if attribute.name == truth.removes:
            expected = np.full_like(expected, attribute.values.index(_NONE))
        right = predicted[attribute.name] == expected
        visible = np.ones_like(right) if attribute.visible is None else attribute.visible
        if visible.any():
            shares[attribute.name] = float(right[visible].mean())
    return shares


def measure_cycle(sources: Images, there_and_back: Images) -> Figure:
    """Returns the cycle error of translators in both directions."""
    return compute_mean_figure(
        "cycle_error",
        absolute_error(there_and_back, sources),
        "mean absolute difference, in levels, of a source and what both directions make of it",
        0.0,
    )


def _get_data_set(labels: LabelledImages) -> str:
    return labels.name.rpartition("/")[0]
