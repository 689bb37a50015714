"""Networks that grow during training.

Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (2017):
both networks begin at the smallest size. When they have learnt it, layers for twice the size are
faded in: for a while the picture is a mixture of the enlarged old one and the new one, and so is
what D sees of it.

Images of all levels have the full size, with enlarged coarse ones, so that everything between the
two networks handles them like other images.
"""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.convolutional import count_doublings
from imagemint.training.networks.layers import MinibatchDeviation, normalize_pixels
from imagemint.training.networks.players import Discriminator, Shape
from imagemint.training.networks.views import Distortion, View

_SLOPE = 0.2


class Growing(nn.Module):
    """Base class of both networks, with the level that they have grown to.

    Attributes:
        level: 0 at the smallest size, 1 at twice that; between them the larger size is faded in. It
            is a buffer, so checkpoints keep it and the moving average of G has that of its weights.
            It may go beyond the last level, which changes nothing.
    """

    level: Tensor

    def begin(self, image_size: int) -> None:
        """Sets the smallest size and the number of levels for images of this size."""
        self.start, self.levels = count_doublings(image_size)
        self.register_buffer("level", torch.zeros(()))

    def compute_stage(self) -> tuple[int, float]:
        """Returns the newest stage and the share of it in the picture, above 0 and up to 1."""
        level = min(self._get_level(), float(self.levels))
        stage = math.ceil(level)
        return stage, 1.0 if stage == level else level - (stage - 1)

    def _get_level(self) -> float:
        return float(self.level) if self.training else self._kept_level

    def train(self, mode: bool = True) -> Self:
        """Sets the mode. In evaluation mode the level is a constant, for the exported graph."""
        self._kept_level = float(self.level)
        return super().train(mode)


def _make_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE))


def _compute_widths(base_channels: int, levels: int) -> list[int]:
    return [max(base_channels // 2**stage, 1) for stage in range(levels + 1)]


class GrowingGenerator(Growing):
    """Draws at the size that it has grown to, and enlarges the images to the full size.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; without a condition.
        base_channels: channels at the smallest size; every doubling of the size halves them.
        bounded: whether tanh bounds the images. The paper's images are not bounded.
    """

    def __init__(
        self, z_dim: int, shape: Shape, *, base_channels: int, bounded: bool = False
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.begin(shape.image_size)
        widths = _compute_widths(base_channels, self.levels)
        self.project = nn.Linear(z_dim, widths[0] * self.start**2)
        self.blocks = nn.ModuleList(
            _make_block(a, b) for a, b in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.to_image = nn.ModuleList(nn.Conv2d(b, shape.image_channels, 1) for b in widths)

    def forward(self, z: Tensor) -> Tensor:
        """Returns images [N, C, H, W], in or near [-1, 1], for ``z`` [N, z_dim]."""
        newest, share = self.compute_stage()
        before = x = normalize_pixels(self.project(z)).unflatten(1, (-1, self.start, self.start))
        for stage in range(newest + 1):
            before = x
            x = normalize_pixels(self.blocks[stage](_double(x) if stage else x))
        image = self._finish(newest, x)
        if share < 1:
            older = _double(self._finish(newest - 1, before))
            image = older + (image - older) * share
        return _enlarge(image, 2 ** (self.levels - newest))

    def _finish(self, stage: int, x: Tensor) -> Tensor:
        image: Tensor = self.to_image[stage](x)
        return image.tanh() if self.bounded else image


class GrowingDiscriminator(Growing, Discriminator):
    """The reverse of the generator: takes images at the size that it has grown to.

    Args:
        shape: shape of the images.
        base_channels: channels at the smallest size; every doubling of the size halves them.
    """

    def __init__(self, shape: Shape, *, base_channels: int) -> None:
        super().__init__()
        self.begin(shape.image_size)
        widths = _compute_widths(base_channels, self.levels)
        self.from_image = nn.ModuleList(_make_from_image(shape.image_channels, b) for b in widths)
        self.blocks = nn.ModuleList(
            _make_block(b, a) for a, b in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.deviation = MinibatchDeviation()
        self.score = nn.Linear(widths[0] * self.start**2 + 1, 1)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of images ``x`` [N, C, H, W], enlarged as G draws them."""
        del c
        newest, share = self.compute_stage()
        picture = _shrink(x, 2 ** (self.levels - newest))
        h = self.from_image[newest](picture)
        for stage in range(newest, -1, -1):
            h = self.blocks[stage](h)
            if stage:
                h = F.avg_pool2d(h, 2)
            if stage == newest and share < 1:
                older = self.from_image[newest - 1](F.avg_pool2d(picture, 2))
                h = older + (h - older) * share
        features: Tensor = self.deviation(h.flatten(1))
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F]."""
        del c
        score: Tensor = self.score(phi).squeeze(1)
        return score


class Grown(View):
    """Images at the level of D: enlarged coarse ones, and mixtures while a size is faded in.

    As in the authors' code, gradient penalties are by the enlarged images. By the coarse ones they
    would be 16 times as large at 7 of 28 pixels.

    Args:
        D: the discriminator whose level counts.
    """

    def __init__(self, D: GrowingDiscriminator) -> None:
        self._D = D

    def __call__(self, x: Tensor) -> Tensor:
        """Returns real images with the level of detail of G."""
        newest, share = self._D.compute_stage()
        factor = 2 ** (self._D.levels - newest)
        picture = _pixelate(x, factor)
        if share < 1:
            older = _pixelate(x, 2 * factor)
            picture = older + (picture - older) * share
        return picture

    def distort_images(self, x: Tensor, distort: Distortion, chances: Tensor) -> Tensor:
        """Returns distorted images, without more detail than their level has."""
        newest, _ = self._D.compute_stage()
        return _pixelate(distort(x, chances), 2 ** (self._D.levels - newest))


def compute_level(images_seen: int, levels: int, stage_images: int) -> float:
    """Returns the level of networks: each size is faded in, and then trained for as long.

    The smallest size has ``stage_images`` images, and every further one twice as many. The final
    level is one above the last, so that a moving average of it also reaches the last.
    """
    phase, within = divmod(images_seen, stage_images)
    if phase >= 2 * levels:
        return levels + 1.0
    return phase // 2 + (within / stage_images if phase % 2 else 0.0)


def count_growing_images(image_size: int, stage_images: int) -> int:
    """Returns the images after which `compute_level` has networks for this size at their last.

    Raises:
        DatasetError: the networks cannot have this size.
    """
    _, levels = count_doublings(image_size)
    return 2 * levels * stage_images


def _make_from_image(channels: int, wide: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, wide, 1), nn.LeakyReLU(_SLOPE))


def _double(x: Tensor) -> Tensor:
    return _enlarge(x, 2)


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def _shrink(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.avg_pool2d(x, factor)


def _pixelate(x: Tensor, factor: int) -> Tensor:
    return _enlarge(_shrink(x, factor), factor)
