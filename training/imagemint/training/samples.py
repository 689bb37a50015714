"""Pictures of a generator, always of the same serials."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemint.engine.sampling import Distribution, latents
from imagemint.training.networks import draw

# Ten images of each class: rows of the grid are classes, as in the bundle's samples.png.
SAMPLES_PER_CLASS = 10
SAMPLES_SEED = 0
_ROWS_WITHOUT_CLASSES = 10


def fixed_samples(
    generator: nn.Module,
    z_dim: int,
    num_classes: int,
    distribution: Distribution = Distribution.NORMAL,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns images uint8 [10 K, H, W, C] at indices 0 to 10 K - 1 of seed 0, and their classes.

    Of a generator without classes a hundred, all of class 0.

    They are the very images that the exported bundle mints under those serials, up to its
    recorded tolerance.
    """
    rows = num_classes or _ROWS_WITHOUT_CLASSES
    classes = np.repeat(np.arange(rows, dtype=np.int64), SAMPLES_PER_CLASS)
    z = latents(SAMPLES_SEED, 0, len(classes), z_dim, distribution=distribution)
    if not num_classes:
        return images_of(generator, z, None), np.zeros_like(classes)
    return images_of(generator, z, classes), classes


@torch.no_grad()
def images_of(
    generator: nn.Module, z: NDArray[np.float32], classes: NDArray[np.int64] | None
) -> NDArray[np.uint8]:
    """Returns uint8 [N, H, W, C] for latents [N, z_dim] and classes [N], in batches of 256.

    Classes are None for a generator that takes none. One that takes psi draws with none.
    """
    device = next(generator.parameters()).device
    rows = torch.from_numpy(z).to(device).split(256)
    told = (
        [None] * len(rows) if classes is None else torch.from_numpy(classes).to(device).split(256)
    )
    parts = [draw(generator, z, c) for z, c in zip(rows, told, strict=True)]
    levels = torch.cat(parts).add(1).mul(127.5).round().clamp(0, 255)
    return levels.byte().permute(0, 2, 3, 1).cpu().numpy()


def within_class_spread(images: NDArray[np.uint8], classes: NDArray[np.int64]) -> float:
    """Returns how much images of one class differ: standard deviation of a pixel, in levels.

    Mean over classes and pixels; 0 when every class shows one picture. Classes with fewer than two
    images do not count.
    """
    spreads = [
        float(images[classes == y].astype(np.float32).std(axis=0).mean())
        for y in np.unique(classes)
        if (classes == y).sum() > 1
    ]
    return float(np.mean(spreads)) if spreads else 0.0


def grid(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Returns the images uint8 [N, H, W, C] as one picture, row by row, black where none is left.

    Gray images give [rows * H, columns * W], RGB images [rows * H, columns * W, 3].
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:count] = images
    tiles = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    picture = tiles.reshape(rows * height, columns * width, channels)
    return picture[..., 0] if channels == 1 else picture
