"""Networks that are trained at all sizes at once.

Karnewar & Wang, "MSG-GAN: Multi-Scale Gradients for Generative Adversarial Networks" (2019): G
draws a picture at each of its sizes, and D sees them all, so that every layer of G has a short way
to D's gradient. It has the effect of progressive growing (Karras et al., 2017) without stages.

The pictures of one image are one tensor [N, S C, H, W], with enlarged coarse ones, so that
everything between the two networks handles them like other images.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.convolutional import count_doublings
from imagemint.training.networks.layers import MinibatchDeviation, normalize_pixels
from imagemint.training.networks.players import Discriminator, Shape
from imagemint.training.networks.views import Distortion, View

_SLOPE = 0.2


class Pyramid(View):
    """Images at several scales, each half the last: [N, S C, H, W], the coarse ones enlarged.

    Args:
        channels: channels of an image, 1 for gray and 3 for RGB.
        scales: number of scales.
    """

    def __init__(self, channels: int, scales: int) -> None:
        self.channels = channels
        self.factors = [2**scale for scale in range(scales)]

    @classmethod
    def of(cls, shape: Shape) -> "Pyramid":
        """Returns the pyramids that a network for images of this shape draws."""
        _, count = count_doublings(shape.image_size)
        return cls(shape.image_channels, count + 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the pyramids of images ``x`` [N, C, H, W]."""
        return torch.cat([_pixelate(x, factor) for factor in self.factors], dim=1)

    def distort_images(self, x: Tensor, distort: Distortion, chances: Tensor) -> Tensor:
        """Returns pyramids whose pictures are distorted as one image.

        A shift by a pixel has no equivalent at a coarse scale, so pictures cannot be distorted at
        their own size. Instead the finest one is distorted, and the coarse ones are made from it
        again. Where a coarse picture differs from the shrunken finest one, as G's may, the
        difference is added to the finest one first. Therefore a pyramid of a real image stays one,
        and real and generated pictures get the same operation.
        """
        pictures = x.unflatten(1, (-1, self.channels))
        finest = pictures[:, 0]
        detailed = [
            finest + pictures[:, scale] - _pixelate(finest, factor) if scale else finest
            for scale, factor in enumerate(self.factors)
        ]
        scales = len(self.factors)
        stacked = torch.stack(detailed, dim=1).flatten(0, 1)
        distorted = distort(stacked, chances.repeat_interleave(scales, dim=1))
        distorted = distorted.unflatten(0, (-1, scales))
        again = [_pixelate(distorted[:, scale], f) for scale, f in enumerate(self.factors)]
        return torch.cat(again, dim=1)

    def power(self, gradient: Tensor) -> Tensor:
        """Returns the squared norm [N] of the gradient by the pictures at their own sizes.

        D's input at a coarse scale is the small picture, as in the paper, where the penalty is
        taken by each input. A pixel of it has f^2 pixels in the enlarged one, among which its
        gradient is divided; their sum gives it back. Taken by the enlarged pictures the penalty
        would be f^2 times too small: 4 and 16 times at the coarse scales of 28 pixels.
        """
        views = gradient.split(self.channels, dim=1)
        powers = [
            (F.avg_pool2d(view, f) * f**2).square().sum(dim=(1, 2, 3))
            for view, f in zip(views, self.factors, strict=True)
        ]
        return torch.stack(powers).sum(dim=0)


def make_pyramid(x: Tensor, scales: int) -> Tensor:
    """Returns images [N, C, H, W] at several scales, each half the last: [N, S C, H, W]."""
    return Pyramid(x.shape[1], scales)(x)


def _pixelate(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else _enlarge(F.avg_pool2d(x, factor), factor)


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def _make_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE))


class MultiScaleGenerator(nn.Module):
    """A generator that returns a `Pyramid` in training, and only the images in evaluation mode.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; without a condition.
        base_channels: channels at the smallest size; every doubling of the size halves them.
    """

    def __init__(self, z_dim: int, shape: Shape, *, base_channels: int) -> None:
        super().__init__()
        self.start, count = count_doublings(shape.image_size)
        widths = [max(base_channels // 2**stage, 1) for stage in range(count + 1)]
        self.project = nn.Linear(z_dim, widths[0] * self.start**2)
        self.blocks = nn.ModuleList(
            _make_block(a, b) for a, b in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.to_image = nn.ModuleList(nn.Conv2d(b, shape.image_channels, 1) for b in widths)

    def forward(self, z: Tensor) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1], in training all scales [N, S C, H, W]."""
        # Pixel normalisation prevents growing magnitudes of the features of both networks.
        x = normalize_pixels(self.project(z)).unflatten(1, (-1, self.start, self.start))
        images: list[Tensor] = []
        for stage, (block, to_image) in enumerate(zip(self.blocks, self.to_image, strict=True)):
            x = normalize_pixels(block(x if stage == 0 else _enlarge(x, 2)))
            images.append(to_image(x).tanh())
        if not self.training:
            return images[-1]
        last = len(images) - 1
        views = [_enlarge(image, 2 ** (last - stage)) for stage, image in enumerate(images)]
        return torch.cat(views[::-1], dim=1)


class MultiScaleDiscriminator(Discriminator):
    """Splits a `Pyramid` into its pictures, and adds each one at the layer of its size.

    Args:
        shape: shape of the images.
        base_channels: channels at the smallest size; every doubling of the size halves them.
        deviation: whether one feature is the variation of the batch; see `MinibatchDeviation`.
    """

    def __init__(self, shape: Shape, *, base_channels: int, deviation: bool = False) -> None:
        super().__init__()
        start, count = count_doublings(shape.image_size)
        self.channels = shape.image_channels
        widths = [max(base_channels // 2 ** (count - stage), 1) for stage in range(count + 1)]
        self.blocks = nn.ModuleList(
            _make_block(before + self.channels, wide)
            for before, wide in zip([0, *widths[:-1]], widths, strict=True)
        )
        self.tail = MinibatchDeviation() if deviation else nn.Identity()
        self.score = nn.Linear(widths[-1] * start**2 + deviation, 1)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of the pyramids ``x`` [N, S C, H, W]."""
        del c
        h = x[:, :0]
        for scale, (block, view) in enumerate(
            zip(self.blocks, x.split(self.channels, 1), strict=True)
        ):
            # An enlarged picture can be reduced exactly, because its pixels are repeated.
            picture = F.avg_pool2d(view, 2**scale) if scale else view
            h = block(torch.cat([F.avg_pool2d(h, 2) if scale else h, picture], dim=1))
        features: Tensor = self.tail(h.flatten(1))
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F]."""
        del c
        score: Tensor = self.score(phi).squeeze(1)
        return score
