"""Pictures of a generator, always of the same serials."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemint.engine.sampling import latents

# Ten images of each class: rows of the grid are classes, as in the bundle's samples.png.
SAMPLES_PER_CLASS = 10
SAMPLES_SEED = 0


def fixed_samples(
    generator: nn.Module, z_dim: int, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns images uint8 [10 K, H, W, C] at indices 0 to 10 K - 1 of seed 0, and their classes.

    They are the very images that the exported bundle mints under those serials, up to its
    recorded tolerance.
    """
    classes = np.repeat(np.arange(num_classes, dtype=np.int64), SAMPLES_PER_CLASS)
    z = latents(SAMPLES_SEED, 0, len(classes), z_dim)
    return images_of(generator, z, classes), classes


@torch.no_grad()
def images_of(
    generator: nn.Module, z: NDArray[np.float32], classes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Returns uint8 [N, H, W, C] for latents [N, z_dim] and classes [N], in batches of 256."""
    device = next(generator.parameters()).device
    parts = [
        generator(torch.from_numpy(z[i : i + 256]).to(device), torch.from_numpy(y).to(device))
        for i in range(0, len(z), 256)
        for y in (classes[i : i + 256],)
    ]
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
