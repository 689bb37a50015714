"""Draws images of fixed serials, and measures how much they vary."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemint.engine.sampling import Distribution, draw_latents
from imagemint.training.datasets import LabelledImages
from imagemint.training.metrics.variety import within_class_variety
from imagemint.training.networks import draw

# Ten images of each class: rows of the grid are classes, as in the bundle's samples.png.
SAMPLES_PER_CLASS = 10
SAMPLES_SEED = 0
_ROWS_WITHOUT_CLASSES = 10
_REAL = 4_000  # real images that samples are compared with, spread over the whole data set


def draw_fixed_samples(
    generator: nn.Module,
    z_dim: int,
    num_classes: int,
    distribution: Distribution = Distribution.NORMAL,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns images uint8 [10 K, H, W, C] at indices 0 to 10 K - 1 of seed 0, and their classes.

    A generator without classes makes a hundred images, all of class 0.

    The exported bundle makes the same images for these serials, up to its recorded tolerance.
    """
    rows = num_classes or _ROWS_WITHOUT_CLASSES
    classes = np.repeat(np.arange(rows, dtype=np.int64), SAMPLES_PER_CLASS)
    z = draw_latents(SAMPLES_SEED, 0, len(classes), z_dim, distribution=distribution)
    if not num_classes:
        return generate_images(generator, z, None), np.zeros_like(classes)
    return generate_images(generator, z, classes), classes


@torch.no_grad()
def generate_images(
    generator: nn.Module, z: NDArray[np.float32], classes: NDArray[np.int64] | None
) -> NDArray[np.uint8]:
    """Returns uint8 [N, H, W, C] for latents [N, z_dim] and classes [N], in batches of 256.

    Pass None as ``classes`` for a generator that takes none. A generator that takes psi draws
    without truncation.
    """
    device = next(generator.parameters()).device
    rows = torch.from_numpy(z).to(device).split(256)
    conditions = (
        [None] * len(rows) if classes is None else torch.from_numpy(classes).to(device).split(256)
    )
    parts = [draw(generator, z, c) for z, c in zip(rows, conditions, strict=True)]
    levels = torch.cat(parts).add(1).mul(127.5).round().clamp(0, 255)
    return levels.byte().permute(0, 2, 3, 1).cpu().numpy()


def within_class_spread(images: NDArray[np.uint8], classes: NDArray[np.int64]) -> float:
    """Returns the variation of images of one class: standard deviation of a pixel, in levels.

    It is the mean over classes and pixels, and 0 if every class consists of copies of one picture.
    Classes with fewer than two images do not count.
    """
    spreads = [
        float(images[classes == y].astype(np.float32).std(axis=0).mean())
        for y in np.unique(classes)
        if (classes == y).sum() > 1
    ]
    return float(np.mean(spreads)) if spreads else 0.0


@dataclass(frozen=True)
class Variety:
    """Variation of samples of one class, in pixels, as a multiple of that of real images.

    Attributes:
        spread: ratio of the mean standard deviation of a pixel.
        nearest: ratio of the mean distance from an image to the nearest other one of its class. A
            class
            that consists of a few pictures keeps its spread but has none of this.
        worst_class: the class whose nearest images are the most alike; -1 if no class counts.
        worst: ``nearest`` of that class.
    """

    spread: float
    nearest: float
    worst_class: int
    worst: float

    @property
    def least(self) -> float:
        """The smaller of ``spread`` and ``nearest``; infinite if neither can be measured."""
        known = [value for value in (self.spread, self.nearest) if np.isfinite(value)]
        return min(known, default=float("inf"))


def measure_variety(
    samples: NDArray[np.uint8], classes: NDArray[np.int64], data: LabelledImages, *, labelled: bool
) -> Variety:
    """Returns the variation of fixed samples within their classes, relative to real images.

    Args:
        samples: uint8 [N, H, W, C].
        classes: classes of the samples, int64 [N].
        data: real images of the same shape.
        labelled: whether ``classes`` are the labels of the data. Codes are not: what varies within
            a code is not known beforehand, so each is compared with real images of any class.
    """
    rows = np.linspace(0, len(data) - 1, min(len(data), _REAL)).astype(np.int64)
    real = np.ascontiguousarray(data.images[rows])
    real_classes = data.labels[rows] if labelled else np.zeros(len(rows), np.int64)
    usual = within_class_spread(real, real_classes)
    found = within_class_variety(
        _flatten(samples),
        classes,
        _flatten(real),
        real_classes if labelled else None,
        most=max(SAMPLES_PER_CLASS, int(np.bincount(classes).max())),
    )
    spread = within_class_spread(samples, classes) / usual if usual else float("nan")
    return Variety(spread, found.mean, found.worst_class, found.worst)


def _flatten(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def arrange_grid(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Returns the images uint8 [N, H, W, C] as one picture, row by row, padded with black.

    Gray images give [rows * H, columns * W], RGB images [rows * H, columns * W, 3].
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:count] = images
    tiles = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    picture = tiles.reshape(rows * height, columns * width, channels)
    return picture[..., 0] if channels == 1 else picture
