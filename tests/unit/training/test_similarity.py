"""Tests of imagemint.training.metrics.similarity against direct formulas."""

import numpy as np
import pytest
from scipy import ndimage

from imagemint.training.metrics import (
    absolute_error,
    count_scales,
    multiscale_structural_similarity,
    peak_signal_noise_ratio,
    sharpness,
    structural_similarity,
)


@pytest.fixture(scope="module")
def truth():
    """Returns three smooth images of 64x64."""
    rng = np.random.Generator(np.random.Philox(key=[2, 0]))
    blurred = ndimage.gaussian_filter(rng.uniform(0, 255, (3, 64, 64, 3)), (0, 2, 2, 0))
    return ((blurred - 100) * 4).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(truth):
    """Returns the same images with noise, with more of it in each."""
    rng = np.random.Generator(np.random.Philox(key=[3, 0]))
    noise = rng.normal(0, 1, truth.shape) * np.array([2, 10, 40])[:, None, None, None]
    return np.clip(truth + noise, 0, 255).astype(np.uint8)


def ssim_maps(x, y):
    """Returns luminance times contrast, and contrast alone, by the paper's formula, [H, W]."""

    def mean(z):
        return ndimage.gaussian_filter(z, 1.5, radius=5, mode="mirror")

    x, y = x / 255, y / 255
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    contrast = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
    return (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2) * contrast, contrast


def test_psnr_is_the_formula(images, truth):
    """20 log10(255 / RMSE) of each image, with a limit for equal ones."""
    found = peak_signal_noise_ratio(images, truth)
    for x, y, value in zip(images, truth, found, strict=True):
        rmse = np.sqrt(np.mean((x.astype(float) - y) ** 2))
        assert value == pytest.approx(20 * np.log10(255 / rmse))
    assert peak_signal_noise_ratio(truth, truth) == pytest.approx(58.92, abs=0.01)


def test_psnr_below_a_mask_ignores_the_rest(images, truth):
    """Only the pixels of the mask count."""
    mask = np.zeros((3, 64, 64), np.bool_)
    mask[:, 10:20, 30:50] = True
    found = peak_signal_noise_ratio(images, truth, mask)
    cut = np.s_[:, 10:20, 30:50]
    assert found == pytest.approx(peak_signal_noise_ratio(images[cut], truth[cut]))


def test_ssim_is_the_formula(images, truth):
    """The mean over all pixels and channels."""
    found = structural_similarity(images, truth)
    for x, y, value in zip(images, truth, found, strict=True):
        direct = [ssim_maps(x[..., c].astype(float), y[..., c])[0].mean() for c in range(3)]
        assert value == pytest.approx(np.mean(direct), abs=1e-5)
    assert structural_similarity(truth, truth) == pytest.approx(1, abs=1e-4)


def test_multiscale_ssim_is_the_formula(images, truth):
    """The result is a product over three scales of 64 pixels with scaled weights.

    Scales are halved by 2x2 means.
    """
    weights = np.array([0.0448, 0.2856, 0.3001])
    weights *= 1.0001 / weights.sum()  # the sum of the paper's five
    assert count_scales(64) == 3
    found = multiscale_structural_similarity(images, truth)
    for x, y, value in zip(images, truth, found, strict=True):
        factors = []
        x, y = x.astype(float), y.astype(float)  # noqa: PLW2901 - halved below
        for scale in range(3):
            maps = [ssim_maps(x[..., c], y[..., c]) for c in range(3)]
            # torchmetrics leaves the border out of the contrast, but not of the last factor.
            inner = [contrast[5:-5, 5:-5].mean() for _, contrast in maps]
            whole = [full.mean() for full, _ in maps]
            factors.append(np.mean(whole if scale == 2 else inner))
            x, y = (z.reshape(len(z) // 2, 2, len(z) // 2, 2, 3).mean(axis=(1, 3)) for z in (x, y))  # noqa: PLW2901 - halved
        assert value == pytest.approx(np.prod(np.array(factors) ** weights), abs=1e-4)


@pytest.mark.parametrize(("size", "scales"), [(16, 1), (28, 2), (32, 2), (64, 3), (256, 5)])
def test_scales_fit_the_image(size, scales):
    """The window fits into the smallest scale."""
    assert count_scales(size) == scales
    image = np.full((1, size, size, 1), 9, np.uint8)
    assert multiscale_structural_similarity(image, image) == pytest.approx(1, abs=1e-4)


def test_sharpness_sees_blur(truth):
    """Sharpness is the mean step between adjacent pixels, which is smaller after a blur."""
    stripes = np.zeros((1, 8, 8, 1), np.uint8)
    stripes[:, :, ::2] = 100
    assert sharpness(stripes) == pytest.approx(50)  # 100 across, 0 down
    blurred = ndimage.gaussian_filter(truth, (0, 3, 3, 0))
    assert (sharpness(blurred) < 0.9 * sharpness(truth)).all()


def test_absolute_error_is_in_levels(truth):
    """A shift of every pixel by three levels has an error of three."""
    shifted = np.where(truth > 100, truth - 3, truth + 3).astype(np.uint8)
    assert absolute_error(shifted, truth) == pytest.approx(3)
