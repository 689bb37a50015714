"""Tests of imagemint.training.loop.samples."""

import numpy as np
import pytest
import torch
from torch import nn

from imagemint.engine.sampling import draw_latents
from imagemint.training.datasets import LabelledImages
from imagemint.training.loop.samples import (
    arrange_grid,
    draw_fixed_samples,
    generate_images,
    measure_variety,
    within_class_spread,
)


class Echo(nn.Module):
    """A generator that returns its latent and its class as a row of pixels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls = []

    def forward(self, z, y):
        """Returns images [N, 1, 1, z_dim + 1]."""
        self.calls.append(len(z))
        row = torch.cat([z, y[:, None] / 10], dim=1)
        return (row * self.scale)[:, None, None, :]


def test_fixed_samples_are_serials():
    """Row k of the grid has class k at indices 10 k to 10 k + 9 of seed 0."""
    images, classes = draw_fixed_samples(Echo(), z_dim=3, num_classes=4)
    z = draw_latents(0, 0, 40, 3)
    levels = np.clip(np.round((z + 1) * 127.5), 0, 255)
    assert np.array_equal(images[:, 0, :3, 0], levels.astype(np.uint8))
    assert np.array_equal(classes, np.repeat(np.arange(4), 10))


@pytest.mark.parametrize(
    ("value", "level"), [(-1, 0), (0, 128), (1, 255), (-7, 0), (7, 255), (-0.996, 1)]
)
def test_levels_are_rounded_and_clamped(value, level):
    """Minus one is black and one is white. Values outside are clamped."""
    z = np.full((1, 2), value, np.float32)
    assert generate_images(Echo(), z, np.zeros(1, np.int64))[0, 0, 0, 0] == level


def test_images_are_computed_in_batches():
    """More images than fit in a batch come out in order."""
    echo = Echo()
    z = np.linspace(-1, 1, 600, dtype=np.float32)[:, np.newaxis]
    images = generate_images(echo, z, np.zeros(600, np.int64))
    assert echo.calls == [256, 256, 88]
    assert (np.diff(images[:, 0, 0, 0].astype(int)) >= 0).all()


def test_grid_is_filled_by_rows():
    """Images fill rows from the left, and the rest of the last row is black."""
    images = np.stack([np.full((2, 3, 1), level, np.uint8) for level in (10, 20, 30)])
    picture = arrange_grid(images, columns=2)
    assert picture.shape == (4, 6)
    assert picture[::2, ::3].tolist() == [[10, 20], [30, 0]]
    assert picture[1, 2] == 10


def test_grid_keeps_colours():
    """RGB images give an RGB grid."""
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[3, ..., 2] = 255
    picture = arrange_grid(images, columns=4)
    assert picture.shape == (2, 8, 3)
    assert picture[0, 7].tolist() == [0, 0, 255]


def test_spread_is_within_classes():
    """Differences between classes do not count, and classes with a single image do not count."""
    images = np.array([0, 20, 100, 100, 7], np.uint8).reshape(5, 1, 1, 1)
    assert within_class_spread(images, np.array([0, 0, 1, 1, 2])) == 5.0
    assert within_class_spread(images[:1], np.array([0])) == 0.0


@pytest.fixture
def noisy():
    """Two classes of noise, sorted by class as in a folder: 40 dark and 40 bright images."""
    rng = np.random.Generator(np.random.Philox(key=[4, 0]))
    images = rng.integers(0, 90, (80, 8, 8, 1)) + np.repeat([0, 120], 40)[:, None, None, None]
    labels = np.repeat([0, 1], 40)
    return LabelledImages("noise", images.astype(np.uint8), labels, ("dark", "bright"), "0" * 64)


def test_variety_of_real_images_is_one(noisy):
    """Ten real images of each class have a variety of about 1."""
    rows = np.concatenate([np.arange(10), np.arange(40, 50)])
    found = measure_variety(noisy.images[rows], noisy.labels[rows], noisy, labelled=True)
    assert found.spread == pytest.approx(1, abs=0.05)
    assert found.nearest == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("labelled", [True, False])
def test_ignored_latent_has_no_variety(noisy, labelled):
    """If each class has one image only, the variety within a class is 0."""
    found = measure_variety(
        np.repeat(noisy.images[[0, 40]], 10, axis=0),
        np.repeat([0, 1], 10),
        noisy,
        labelled=labelled,
    )
    assert (found.spread, found.nearest, found.least) == (0.0, 0.0, 0.0)


def test_two_alternating_images_have_no_variety(noisy):
    """Such images have the spread of real ones, but their nearest neighbours are copies."""
    images = noisy.images[[0, 1] * 5 + [40, 41] * 5]
    found = measure_variety(images, np.repeat([0, 1], 10), noisy, labelled=True)
    assert found.spread > 0.4
    assert found.least == found.nearest == 0.0


def test_class_of_one_real_image_is_not_judged(noisy):
    """One real image per class has no variety to compare with, so the result is NaN."""
    single = LabelledImages("two", noisy.images[[0, 40]], np.array([0, 1]), ("a", "b"), "0" * 64)
    found = measure_variety(noisy.images[::4], np.repeat([0, 1], 10), single, labelled=True)
    assert np.isnan(found.nearest)
    assert found.least == np.inf
