"""Sources made from images: line drawings, gray, small and blurred images.

Each degradation is a function of (image, seed, index): the same image, seed and index give the
same source, whatever else is in the batch. Those without random numbers ignore seed and index.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.errors import DatasetError
from imagemint.training.rng import Stream, make_rng

Images = NDArray[np.uint8]
_RGB = 3
# The weights of ITU-R BT.601 in 16 bits, as Pillow's conversion to mode L has them.
_LUMA = np.array([19595, 38470, 7471], np.int64)


class Degradation(ABC):
    """Makes sources from images.

    A subclass is a frozen dataclass: its ``repr`` names all parameters and enters the digest.
    """

    @abstractmethod
    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of the sources of images of this shape.

        Raises:
            DatasetError: images of this shape are not suitable.
        """

    @abstractmethod
    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns the sources uint8 [N, h, w, depth] of images uint8 [N, H, W, C].

        Args:
            images: the targets.
            seed: seed of the random numbers.
            indices: int64 [N]; image i gets the random numbers of (seed, indices[i]).
        """


@dataclass(frozen=True)
class Unchanged(Degradation):
    """The images themselves, for translators without another target."""

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of the images."""
        return SourceForm(height, width, channels)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns the images."""
        del seed, indices
        return images


@dataclass(frozen=True)
class Edges(Degradation):
    """Line drawings: black lines, one pixel wide, on white.

    Canny, "A computational approach to edge detection" (1986), without its hysteresis: Sobel
    gradients of each channel, the strongest channel counts, and a pixel is a line where its
    gradient is above the threshold and not below that of its two neighbours across the edge.
    The images are not smoothed first, because drawings have no noise.

    Attributes:
        threshold: least step between two areas, in levels, that becomes a line.
    """

    threshold: int = 24

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of gray images of the same size."""
        del channels
        return SourceForm(height, width, 1)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns the drawings uint8 [N, H, W, 1], 0 on lines and 255 elsewhere."""
        del seed, indices
        x = images.astype(np.float32)
        across, down = _compute_gradient(x, along=2, over=1), _compute_gradient(x, along=1, over=2)
        size = np.hypot(across, down)
        strongest = size.argmax(axis=3)[..., np.newaxis]
        across, down, size = (
            np.take_along_axis(part, strongest, axis=3)[..., 0] for part in (across, down, size)
        )
        is_line = (size > self.threshold) & _is_crest(size, across, down)
        return np.where(is_line, 0, 255).astype(np.uint8)[..., np.newaxis]


def _compute_gradient(x: NDArray[np.float32], along: int, over: int) -> NDArray[np.float32]:
    """Returns the gradient along an axis, smoothed over another: 1 for a step of one level."""
    steps = ndimage.correlate1d(x, [-1, 0, 1], axis=along, mode="nearest")
    smooth: NDArray[np.float32] = ndimage.correlate1d(
        steps, [0.25, 0.5, 0.25], axis=over, mode="nearest"
    )
    return smooth


def _is_crest(
    size: NDArray[np.float32], across: NDArray[np.float32], down: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Returns where a gradient is the largest of three pixels along its direction.

    There are eight directions. The two sides of a sharp step have equal gradients; the first one
    counts.
    """
    octant = np.round(np.arctan2(down, across) / (np.pi / 4)).astype(np.int64) % 4
    padded = np.pad(size, ((0, 0), (1, 1), (1, 1)))
    height, width = size.shape[1:]
    found = np.zeros(size.shape, np.bool_)
    for direction, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        before, behind = (
            padded[:, 1 + sign * dy : 1 + sign * dy + height, 1 + sign * dx :][:, :, :width]
            for sign in (-1, 1)
        )
        found |= (octant == direction) & (size > before) & (size >= behind)
    return found


@dataclass(frozen=True)
class Gray(Degradation):
    """Gray images, by the luma of ITU-R BT.601 as Pillow computes it."""

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of gray images of the same size."""
        if channels != _RGB:
            raise DatasetError("gray sources need images in colour")
        return SourceForm(height, width, 1)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns gray images uint8 [N, H, W, 1]."""
        del seed, indices
        luma = (images.astype(np.int64) @ _LUMA + 0x8000) >> 16
        return luma.astype(np.uint8)[..., np.newaxis]


@dataclass(frozen=True)
class LowResolution(Degradation):
    """Small images, by the bicubic kernel of Keys (1981), a = -0.5, as Pillow applies it.

    The kernel is stretched by the factor, so it reaches over 4 * factor pixels in each direction
    and removes what the small image cannot show (antialiasing). At a border its weights inside the
    image are scaled to a sum of 1. This is also what MATLAB's ``imresize`` does, and so the
    degradation of SRGAN (Ledig et al., 2017), except for its treatment of borders.

    Attributes:
        factor: target pixels per source pixel, in each direction.
    """

    factor: int = 4

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of images of a factor of the size."""
        if height % self.factor or width % self.factor:
            raise DatasetError(
                f"{self.factor}x smaller sources need images of a multiple of {self.factor} pixels,"
                f" not {height}x{width}"
            )
        return SourceForm(height // self.factor, width // self.factor, channels, scale=self.factor)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns small images uint8 [N, H / factor, W / factor, C]."""
        del seed, indices
        height, width = images.shape[1] // self.factor, images.shape[2] // self.factor
        return resize_bicubic(images, height, width)


def resize_bicubic(images: Images, height: int, width: int) -> Images:
    """Returns images uint8 [N, height, width, C], resized by Pillow's bicubic filter."""
    channels = images.shape[3]
    small = np.empty((len(images), height, width, channels), np.uint8)
    for image, into in zip(images, small, strict=True):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
        into[:] = resized.reshape(into.shape)
    return small


@dataclass(frozen=True)
class MotionBlur(Degradation):
    """Images blurred by a camera that moves along a random path.

    The path follows the idea of Boracchi & Foi (2012), which DeblurGAN (Kupyn et al., 2018) uses: a
    point moves with inertia, its direction is disturbed at every step, and now and then it turns
    sharply. The image is the mean of the images at all points of the path. Beyond the border the
    nearest pixel counts.

    Attributes:
        longest: largest length of a path, in pixels; lengths are uniform from 3 to that.
        steps: points of a path.
        turns: standard deviation of the change of direction per step, in radians.
        jerks: probability of a sharp turn at a step.
    """

    longest: int = 12
    steps: int = 48
    turns: float = 0.12
    jerks: float = 0.02

    def compute_source_form(self, height: int, width: int, channels: int) -> SourceForm:
        """Returns the form of the images themselves."""
        return SourceForm(height, width, channels)

    def __call__(self, images: Images, seed: int, indices: NDArray[np.int64]) -> Images:
        """Returns blurred images uint8 [N, H, W, C]."""
        kernels = self.draw_kernels(seed, indices)
        return np.stack([_blur(*image) for image in zip(images, kernels, strict=True)])

    @property
    def kernel_size(self) -> int:
        """Height and width of a kernel, odd."""
        return self.longest + 1 + self.longest % 2

    def draw_kernels(self, seed: int, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the kernels float64 [N, k, k] of these indices; each has the sum 1."""
        return np.stack([self._draw_kernel(make_rng(seed, Stream.SOURCES, i)) for i in indices])

    def _draw_kernel(self, rng: np.random.Generator) -> NDArray[np.float64]:
        length = rng.uniform(3, self.longest)
        change = rng.normal(0, self.turns, self.steps)
        sharp = rng.random(self.steps) < self.jerks
        change += np.where(sharp, rng.uniform(-np.pi, np.pi, self.steps), 0)
        angles = rng.uniform(0, 2 * np.pi) + change.cumsum()
        path = np.stack([np.sin(angles), np.cos(angles)]).cumsum(axis=1) * (length / self.steps)
        path -= (path.max(axis=1, keepdims=True) + path.min(axis=1, keepdims=True)) / 2
        return _rasterize_path(path, self.kernel_size)


def _rasterize_path(path: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Returns a kernel [size, size] of points [2, P] around its centre, by bilinear weights."""
    kernel = np.zeros((size + 1, size + 1))
    points = path + size // 2
    corner = np.floor(points).astype(np.int64)
    dy, dx = points - corner
    for row, y in ((0, 1 - dy), (1, dy)):
        for column, x in ((0, 1 - dx), (1, dx)):
            np.add.at(kernel, (corner[0] + row, corner[1] + column), y * x)
    kernel = kernel[:size, :size]
    normalised: NDArray[np.float64] = kernel / kernel.sum()
    return normalised


def _blur(image: Images, kernel: NDArray[np.float64]) -> Images:
    """Returns the mean of shifted images, added one after another: the same in every batch."""
    radius = len(kernel) // 2
    height, width = image.shape[:2]
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    total = np.zeros(image.shape)
    for dy, dx in np.argwhere(kernel):
        total += kernel[dy, dx] * padded[dy : dy + height, dx : dx + width]
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)
