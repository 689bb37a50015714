"""Networks that are trained at all sizes at once.

Karnewar & Wang, "MSG-GAN: Multi-Scale Gradients for Generative Adversarial Networks" (2019): G
draws a picture at each of its sizes, and D sees them all, so that every layer of G has a short way
to D's gradient. It does what progressive growing (Karras et al., 2017) does, without stages.

The pictures of one image travel as one tensor [N, S C, H, W], the coarse ones enlarged, so that
everything between the two networks handles images as ever.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.convolutional import doublings
from imagemint.training.networks.layers import pixel_normal
from imagemint.training.networks.players import Discriminator, Shape

_SLOPE = 0.2


def pyramid(x: Tensor, scales: int) -> Tensor:
    """Returns images [N, C, H, W] at so many scales, each half the last: [N, S C, H, W]."""
    factors = [2**scale for scale in range(1, scales)]
    return torch.cat([x, *(_enlarged(F.avg_pool2d(x, f), f) for f in factors)], dim=1)


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE))


class MultiScaleGenerator(nn.Module):
    """In training it returns a `pyramid`, in evaluation mode the images alone.

    Args:
        z_dim: length of a latent.
        shape: of the images; without a condition.
        base_channels: channels at the smallest size; every doubling of the size halves them.
    """

    def __init__(self, z_dim: int, shape: Shape, *, base_channels: int) -> None:
        super().__init__()
        self.start, count = doublings(shape.image_size)
        widths = [max(base_channels // 2**stage, 1) for stage in range(count + 1)]
        self.project = nn.Linear(z_dim, widths[0] * self.start**2)
        self.blocks = nn.ModuleList(
            _block(a, b) for a, b in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.to_image = nn.ModuleList(nn.Conv2d(b, shape.image_channels, 1) for b in widths)

    def forward(self, z: Tensor) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1], in training all scales [N, S C, H, W]."""
        # Pixel normalisation of the features keeps both players from a race of magnitudes.
        x = pixel_normal(self.project(z)).unflatten(1, (-1, self.start, self.start))
        images: list[Tensor] = []
        for stage, (block, to_image) in enumerate(zip(self.blocks, self.to_image, strict=True)):
            x = pixel_normal(block(x if stage == 0 else _enlarged(x, 2)))
            images.append(to_image(x).tanh())
        if not self.training:
            return images[-1]
        last = len(images) - 1
        views = [_enlarged(image, 2 ** (last - stage)) for stage, image in enumerate(images)]
        return torch.cat(views[::-1], dim=1)


class MultiScaleDiscriminator(Discriminator):
    """Takes a `pyramid` apart again, and each picture in where its size is reached.

    Args:
        shape: of the images.
        base_channels: channels at the smallest size; every doubling of the size halves them.
    """

    def __init__(self, shape: Shape, *, base_channels: int) -> None:
        super().__init__()
        start, count = doublings(shape.image_size)
        self.channels = shape.image_channels
        widths = [max(base_channels // 2 ** (count - stage), 1) for stage in range(count + 1)]
        self.blocks = nn.ModuleList(
            _block(before + self.channels, wide)
            for before, wide in zip([0, *widths[:-1]], widths, strict=True)
        )
        self.score = nn.Linear(widths[-1] * start**2, 1)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of the pyramids ``x`` [N, S C, H, W]."""
        del c
        h = x[:, :0]
        for scale, (block, view) in enumerate(
            zip(self.blocks, x.split(self.channels, 1), strict=True)
        ):
            # An enlarged picture shrinks back exactly; its pixels are all alike.
            picture = F.avg_pool2d(view, 2**scale) if scale else view
            h = block(torch.cat([F.avg_pool2d(h, 2) if scale else h, picture], dim=1))
        return h.flatten(1)

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F]."""
        del c
        score: Tensor = self.score(phi).squeeze(1)
        return score
