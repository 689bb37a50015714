"""Baselines without a trained network, to compare a translator with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imagemint.training.datasets.translations import DegradedImages, Pairs
from imagemint.training.datasets.translations.degradations import MotionBlur, resize_bicubic
from imagemint.training.datasets.translations.pairs import EXAMPLES

Images = NDArray[np.uint8]
Rows = NDArray[np.int64]

_TRAINING = 5_000  # training images whose mean a baseline uses
_KERNELS = 2_000
_REACH = 3  # pixels around a point from which Telea's method fills it, as in OpenCV's tutorial
# The weight of smoothness in the Wiener filters: of 1e-5, 1e-4, 0.001, 0.01, 0.1 and 0.3 the one
# with the highest PSNR on 100 training images of avatars64, for each of the two.
_BALANCE = 1e-5
_BALANCE_BLIND = 0.1


@dataclass(frozen=True)
class Baseline:
    """A result for every source, without training.

    Attributes:
        name: short name, such as ``bicubic``.
        how: its method, for the protocol.
        translate: returns the results uint8 [N, H', W', C] of sources uint8 [N, H, W, depth], which
            are those of ``make_examples`` at the rows int64 [N].
    """

    name: str
    how: str
    translate: Callable[[Images, Rows], Images]


def find_baselines(train: Pairs, test: Pairs) -> tuple[Baseline, ...]:
    """Returns the baselines of a task.

    Args:
        train: pairs from which a baseline may take means.
        test: pairs whose sources are translated.
    """
    form, shape = test.form, test.target_shape
    if form.mask:
        return (
            Baseline("mean_fill", "the hole has the mean colour of the rest", _fill_with_mean),
            Baseline(
                "telea", "the hole by OpenCV's fast marching (Telea, 2004)", _fill_by_marching
            ),
        )
    if form.frames > 1:
        return (
            Baseline("last_frame", "the last frame of the source", _make_last_frame(form.channels)),
        )
    if form.scale > 1:
        return (
            Baseline(
                "bicubic",
                "enlarged by Pillow's bicubic filter",
                lambda x, _: resize_bicubic(x, *shape[:2]),
            ),
        )
    if isinstance(test, DegradedImages) and isinstance(test.degradation, MotionBlur):
        return (_make_identity(), *_make_wiener_filters(test.degradation))
    if form.channels < shape[2]:
        return _make_training_means(train)
    return (_make_identity(),)


def _make_identity() -> Baseline:
    return Baseline("identity", "the source itself", lambda x, _: x)


def _make_last_frame(channels: int) -> Callable[[Images, Rows], Images]:
    return lambda x, _: x[..., -channels:]


def _make_training_means(train: Pairs) -> tuple[Baseline, ...]:
    """Returns the mean training image, and for gray sources the mean colour at their luma."""
    rows = np.arange(min(len(train), _TRAINING))
    sources, targets = train.make_examples(rows)
    mean = targets.mean(axis=0, dtype=np.float64)
    image = np.rint(mean).astype(np.uint8)
    found = Baseline(
        "mean_image",
        "the mean training image for every source",
        lambda x, _: np.repeat(image[np.newaxis], len(x), axis=0),
    )
    if "gray" not in train.name.split():
        return (found,)
    tint = mean.mean(axis=(0, 1)) - sources.mean(dtype=np.float64)

    def add_tint(x: Images, rows: Rows) -> Images:
        del rows
        levels: Images = np.clip(np.rint(x + tint), 0, 255).astype(np.uint8)
        return levels

    return (Baseline("mean_colour", "the source, tinted by the mean training colour", add_tint),)


def _fill_with_mean(sources: Images, rows: Rows) -> Images:
    del rows
    images, holes = _open(sources)
    known = ~holes[..., np.newaxis]
    mean = (images * known).sum(axis=(1, 2), keepdims=True) / known.sum(axis=(1, 2), keepdims=True)
    filled: Images = np.where(known, images, np.rint(mean)).astype(np.uint8)
    return filled


def _fill_by_marching(sources: Images, rows: Rows) -> Images:
    import cv2  # noqa: PLC0415 - for this baseline alone

    del rows
    images, holes = _open(sources)
    filled = [
        cv2.inpaint(image, hole.astype(np.uint8), _REACH, cv2.INPAINT_TELEA)
        for image, hole in zip(images, holes, strict=True)
    ]
    return np.stack(filled).astype(np.uint8)


def _open(sources: Images) -> tuple[Images, NDArray[np.bool_]]:
    """Returns the images [N, H, W, C] and their holes, bool [N, H, W]."""
    holes: NDArray[np.bool_] = sources[..., -1] > 127  # noqa: PLR2004 - the middle
    return sources[..., :-1], holes


def _make_wiener_filters(blur: MotionBlur) -> tuple[Baseline, ...]:
    """Returns a filter that knows the blur of each image, and one that knows only the mean."""
    mean = blur.draw_kernels(1, np.arange(_KERNELS)).mean(axis=0)

    def apply_mean_filter(x: Images, rows: Rows) -> Images:
        del rows
        return np.stack([_sharpen(image, mean, _BALANCE_BLIND) for image in x])

    def apply_known_filter(x: Images, rows: Rows) -> Images:
        kernels = blur.draw_kernels(EXAMPLES, rows)
        pairs = zip(x, kernels, strict=True)
        return np.stack([_sharpen(image, kernel, _BALANCE) for image, kernel in pairs])

    return (
        Baseline("wiener", "Wiener filter for the mean of all blurs", apply_mean_filter),
        Baseline(
            "wiener_known",
            "Wiener filter that is told the blur of each image, which no other result knows",
            apply_known_filter,
        ),
    )


def _sharpen(image: Images, kernel: NDArray[np.float64], balance: float) -> Images:
    """Returns scikit-image's Wiener-Hunt filter of an image, whose border it repeats first."""
    from skimage.restoration import wiener  # noqa: PLC0415 - half a second

    edge = 2 * len(kernel)
    padded = np.pad(image / 255, ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    # The filter treats an image as periodic, so opposite borders are blended.
    padded = _taper(padded, len(kernel))
    # MotionBlur is a correlation, and the filter expects a convolution.
    flipped = kernel[::-1, ::-1]
    sharpen: Callable[..., NDArray[np.float64]] = wiener  # scikit-image has no types
    channels = [sharpen(padded[..., c], flipped, balance) for c in range(padded.shape[2])]
    sharp = np.stack(channels, axis=2)[edge:-edge, edge:-edge]
    return _to_levels(sharp)


def _taper(x: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    smooth = ndimage.gaussian_filter(x, (width, width, 0), mode="wrap")
    height, across = x.shape[:2]
    rows, columns = (
        np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / width, 0, 1)
        for n in (height, across)
    )
    share = np.minimum(rows[:, None], columns)[..., None]
    tapered: NDArray[np.float64] = share * x + (1 - share) * smooth
    return tapered


def _to_levels(x: NDArray[np.float64]) -> Images:
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)
