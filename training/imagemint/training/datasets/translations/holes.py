"""Makes images with holes to fill, and masks of these holes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.translations.degradations import Degradation, Images
from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.rng import Stream, make_rng

HIDDEN = 127
"""Level of the pixels below a mask: close to 0 for a network that takes -1 to 1."""
GLASSES = (19, 32, 16, 49)
"""Top, bottom, left and right of a box around all glasses of `avatars64`, with a pixel around."""
_SIZE = 64  # of the images in which GLASSES are measured


@dataclass(frozen=True)
class Holes(Degradation):
    """Images with a hole each: a rectangle, a stroke of a thick brush, or the box of glasses.

    Context encoders (Pathak et al., 2016) fill rectangles; free strokes are as in Yu et al.,
    "Free-Form Image Inpainting with Gated Convolution" (2019). Sources have the mask as their last
    channel, and `HIDDEN` below it.

    Attributes:
        boxes: share of the holes that are the box of the glasses of `avatars64`, moved by up to a
            pixel.
        least: height and width of the smallest rectangle, as a share of the image.
        most: those of the largest one.
    """

    boxes: float = 0.0
    least: float = 0.2
    most: float = 0.45

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of the images, with a mask."""
        return SourceForm(height, width, channels, mask=True)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns images with holes, and their masks: uint8 [N, H, W, C + 1]."""
        height, width = images.shape[1:3]
        masks = np.stack(
            [self._draw_mask(make_rng(seed, Stream.SOURCES, i), height, width) for i in indices]
        )
        return hide(images, masks)

    def _draw_mask(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        kind = rng.random()
        if kind < self.boxes:
            return make_glasses_box(height, width, *rng.integers(-1, 2, size=2).tolist())
        if kind < (1 + self.boxes) / 2:
            return self._draw_rectangle(rng, height, width)
        return self._draw_stroke(rng, height, width)

    def _draw_rectangle(
        self, rng: np.random.Generator, height: int, width: int
    ) -> NDArray[np.bool_]:
        tall, wide = np.rint(rng.uniform(self.least, self.most, 2) * (height, width)).astype(int)
        top, left = rng.integers(0, (height - tall + 1, width - wide + 1))
        mask = np.zeros((height, width), np.bool_)
        mask[top : top + tall, left : left + wide] = True
        return mask

    def _draw_stroke(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        """Returns a path of round dots that turns slightly at every step and stays in the image."""
        radius = rng.uniform(0.03, 0.07) * height
        length = rng.uniform(0.5, 1.2) * height
        steps = int(length / radius) + 1
        angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5, steps).cumsum()
        start = rng.uniform(0.2, 0.8, 2) * (height, width)
        path = start + radius * np.stack([np.sin(angles), np.cos(angles)], axis=1).cumsum(axis=0)
        path = np.clip(path, 0, (height - 1, width - 1))
        y, x = np.mgrid[:height, :width]
        far = (y[..., None] - path[:, 0]) ** 2 + (x[..., None] - path[:, 1]) ** 2
        mask: NDArray[np.bool_] = (far <= radius**2).any(axis=2)
        return mask


@dataclass(frozen=True)
class GlassesMask(Degradation):
    """Images with the place of the glasses hidden."""

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of the images, with a mask."""
        return SourceForm(height, width, channels, mask=True)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns images with a hidden box, and its mask: uint8 [N, H, W, C + 1]."""
        del seed, indices
        mask = make_glasses_box(*images.shape[1:3])
        return hide(images, np.broadcast_to(mask, images.shape[:3]))


def make_glasses_box(height: int, width: int, down: int = 0, across: int = 0) -> NDArray[np.bool_]:
    """Returns the mask bool [height, width] of the box of glasses, moved by so many pixels."""
    top, bottom, left, right = GLASSES
    mask = np.zeros((height, width), np.bool_)
    rows = slice(*((edge + down) * height // _SIZE for edge in (top, bottom)))
    columns = slice(*((edge + across) * width // _SIZE for edge in (left, right)))
    mask[rows, columns] = True
    return mask


def hide(images: Images, masks: NDArray[np.bool_]) -> Images:
    """Returns images uint8 [N, H, W, C] hidden below masks bool [N, H, W]: [N, H, W, C + 1]."""
    below = masks[..., np.newaxis]
    hidden = np.where(below, np.uint8(HIDDEN), images)
    return np.concatenate([hidden, below.astype(np.uint8) * np.uint8(255)], axis=3)
