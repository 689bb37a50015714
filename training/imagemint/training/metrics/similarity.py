"""Measures how close images are to the true ones, in their pixels and their structure.

Images are uint8 [N, H, W, C]. Each function returns a figure for every image, float64 [N], from
which a caller takes mean and standard error. SSIM and MS-SSIM come from torchmetrics.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Images = NDArray[np.uint8]
Figures = NDArray[np.float64]

_PEAK = 255
# The mean squared error of rounding to whole levels; smaller differences are not significant.
_ROUNDING = 1 / 12
_BATCH = 500
_WINDOW = 11
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def peak_signal_noise_ratio(
    images: Images, truth: Images, mask: NDArray[np.bool_] | None = None
) -> Figures:
    """Returns the PSNR in dB; higher is better.

    Equal images have 58.9 dB, the ratio of the error that rounding to 8 bits makes.

    Args:
        images: the images to measure.
        truth: the true images.
        mask: bool [N, H, W], the pixels that count; each image has one at least. None: all.
    """
    square = np.square(images.astype(np.float64) - truth).mean(axis=3)
    if mask is None:
        error = square.mean(axis=(1, 2))
    else:
        error = (square * mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
    ratio: Figures = 10 * np.log10(_PEAK**2 / np.maximum(error, _ROUNDING))
    return ratio


def structural_similarity(images: Images, truth: Images) -> Figures:
    """Returns the SSIM (Wang et al., 2004): 1 for equal images.

    Gaussian window of 11 pixels with deviation 1.5; mean over all pixels, with reflected borders,
    and over the channels.
    """
    from torchmetrics.functional.image import (  # noqa: PLC0415 - takes seconds
        structural_similarity_index_measure,
    )

    def measure(x: "Tensor", y: "Tensor") -> "Tensor":
        found = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
        assert not isinstance(found, tuple)  # noqa: S101 - only with the full image
        return found

    return _compute_in_batches(measure, images, truth)


def multiscale_structural_similarity(images: Images, truth: Images) -> Figures:
    """Returns the MS-SSIM (Wang et al., 2003): 1 for equal images.

    As many of the five scales as the window of 11 pixels fits in (see `count_scales`), with the
    paper's weights scaled to the same sum.
    """
    from torchmetrics.functional.image import (  # noqa: PLC0415 - takes seconds
        multiscale_structural_similarity_index_measure,
    )

    weights = _BETAS[: count_scales(min(images.shape[1:3]))]
    betas = tuple(beta * sum(_BETAS) / sum(weights) for beta in weights)

    def measure(x: "Tensor", y: "Tensor") -> "Tensor":
        return multiscale_structural_similarity_index_measure(
            x, y, data_range=1.0, reduction="none", betas=betas
        )

    return _compute_in_batches(measure, images, truth)


def count_scales(size: int) -> int:
    """Returns the number of scales of MS-SSIM for the smaller side of images: 3 for 64 pixels."""
    return next(
        scales
        for scales in range(len(_BETAS), 0, -1)
        if scales == 1 or (size >> (scales - 1)) > _WINDOW
    )


def sharpness(images: Images) -> Figures:
    """Returns the mean absolute difference of adjacent pixels, in levels.

    Compare it with that of the true images: blurred ones have less.
    """
    levels = images.astype(np.float64)
    across = np.abs(np.diff(levels, axis=2)).mean(axis=(1, 2, 3))
    down = np.abs(np.diff(levels, axis=1)).mean(axis=(1, 2, 3))
    mean: Figures = (across + down) / 2
    return mean


def absolute_error(images: Images, truth: Images) -> Figures:
    """Returns the mean absolute difference in levels.

    Between sources and their round trips through two translators, it is the cycle error.
    """
    error: Figures = np.abs(images.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    return error


def _compute_in_batches(
    measure: "Callable[[Tensor, Tensor], Tensor]", images: Images, truth: Images
) -> Figures:
    import torch  # noqa: PLC0415 - imported by torchmetrics, too

    def to_tensor(x: Images) -> "Tensor":
        return torch.from_numpy(x).permute(0, 3, 1, 2).float().div(_PEAK)

    parts = []
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            found = measure(to_tensor(images[rows]), to_tensor(truth[rows]))
            parts.append(found.reshape(-1).double().numpy())
    return np.concatenate(parts)
