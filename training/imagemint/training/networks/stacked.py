"""Networks in two stages, for pictures whose class and attributes are known.

Zhang et al., "StackGAN++: Realistic Image Synthesis with Stacked Generative Adversarial Networks"
(2017), StackGAN-v2: the first stage draws a small picture of the latent and the condition. The
second stage takes the hidden features of the first one, joined with the condition again, and draws
the picture at twice the size. Each size has a discriminator, which judges with the condition and
without it. All are trained together.

The stages are made of the layers of `networks.attributes`: ReLU instead of gated linear units, and
scales and biases by the condition at every normalisation besides the join. The second stage has one
residual block where the authors have two.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.attributes import (
    AttributeDiscriminator,
    AttributeGenerator,
    Frequencies,
    ScaledNorm,
    complete,
    make_upsampling,
)
from imagemint.training.networks.players import Discriminator, Shape


class Refinement(nn.Module):
    """The second stage: joins features and condition, and draws a picture of four times the size.

    Args:
        channels: channels of the features.
        width: length of the condition that is joined.
        condition_dim: length of the condition of the normalisations.
        hidden: channels of its own layers.
        image_channels: 1 for gray, 3 for RGB.
    """

    def __init__(
        self, channels: int, *, width: int, condition_dim: int, hidden: int, image_channels: int
    ) -> None:
        super().__init__()
        self.join = nn.Conv2d(channels + width, hidden, 3, padding=1, bias=False)
        self.block = nn.ModuleList(
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False) for _ in range(2)
        )
        self.upward = make_upsampling(hidden, hidden, few=False)
        self.norms = nn.ModuleList(ScaledNorm(hidden, condition_dim) for _ in range(4))
        self.paint = nn.Conv2d(hidden, 4 * image_channels, 3, padding=1)

    def forward(self, h: Tensor, c: Tensor, condition: Tensor) -> Tensor:
        """Returns images [N, image_channels, 4 H, 4 W] in [-1, 1].

        Args:
            h: features of the first stage [N, channels, H, W].
            c: condition to join at every place [N, width].
            condition: condition of the normalisations [N, condition_dim].
        """
        tiled = c[:, :, None, None].expand(-1, -1, *h.shape[2:])
        h = F.relu(self.norms[0](self.join(torch.cat([h, tiled], dim=1)), condition))
        residual = F.relu(self.norms[1](self.block[0](h), condition))
        h = h + self.norms[2](self.block[1](residual), condition)
        return complete(self.paint(F.relu(self.norms[3](self.upward(h), condition))))


class StackedGenerator(nn.Module):
    """Draws a picture at half the size and refines it; returns a pyramid of both in training.

    In evaluation mode it returns only the refined picture.

    Args:
        z_dim: length of a latent.
        shape: shape of the refined images, with classes.
        c_dim: length of each embedding of class and attributes.
        base_channels: channels of the first stage, an `AttributeGenerator`.
        refine_channels: channels of the second stage.
        frequencies: frequencies of the attributes; empty where there are none.
    """

    def __init__(
        self,
        z_dim: int,
        shape: Shape,
        *,
        c_dim: int,
        base_channels: int,
        refine_channels: int,
        frequencies: Frequencies,
    ) -> None:
        super().__init__()
        self.first = AttributeGenerator(
            *(z_dim, _halve(shape)),
            c_dim=c_dim,
            base_channels=base_channels,
            frequencies=frequencies,
        )
        condition = self.first.condition
        self.second = Refinement(
            self.first.paint.in_channels,
            width=condition.width - condition.noise,
            condition_dim=condition.width,
            hidden=refine_channels,
            image_channels=shape.image_channels,
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1], in training both sizes [N, 2 C, H, W].

        Args:
            z: latents [N, z_dim].
            y: classes int64 [N], or classes and attributes int64 [N, 1 + A].
        """
        condition = self.first.condition(z, y)
        h = self.first.compute_hidden(condition)
        # As in the paper, the latent enters the join through the first stage alone.
        refined: Tensor = self.second(h, condition[:, self.first.condition.noise :], condition)
        if not self.training:
            return refined
        small = complete(self.first.paint(h))
        return torch.cat([refined, F.interpolate(small, scale_factor=2, mode="nearest")], dim=1)


class StackedDiscriminator(Discriminator):
    """A discriminator for each size of a pyramid, with four judgements of an image.

    Args:
        shape: shape of the images.
        base_channels: channels of either at half of its size; every halving doubles them.
        values: number of values of each attribute.
    """

    JUDGEMENTS: ClassVar[int] = 4
    """Columns of the logits."""
    CONDITIONAL: ClassVar[tuple[int, int]] = (0, 1)
    """Those that say whether an image fits its condition, the large size first."""
    UNCONDITIONAL: ClassVar[tuple[int, int]] = (2, 3)
    """Those that judge the image alone."""

    def __init__(self, shape: Shape, *, base_channels: int, values: list[int]) -> None:
        super().__init__()
        self.channels = shape.image_channels
        self.large, self.small = (
            AttributeDiscriminator(each, base_channels=base_channels, values=values)
            for each in (shape, _halve(shape))
        )
        self.widths = [self.large.score.in_features, self.small.score.in_features]
        self.alone = nn.ModuleList(nn.Linear(width, 1) for width in self.widths)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of the pyramids ``x`` [N, 2 C, H, W]."""
        large, small = x.split(self.channels, dim=1)
        # An enlarged picture can be reduced exactly, because its pixels are repeated.
        features = [self.large.phi(large, c), self.small.phi(F.avg_pool2d(small, 2), c)]
        return torch.cat(features, dim=1)

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns the logits [N, 4] for features ``phi`` [N, F]; see the class attributes."""
        large, small = phi.split(self.widths, dim=1)
        fitting = [self.large.logits(large, c), self.small.logits(small, c)]
        alone = [
            score(part).squeeze(1) for score, part in zip(self.alone, (large, small), strict=True)
        ]
        return torch.stack([*fitting, *alone], dim=1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Returns the sum of the judgements [N] of each of the pyramids ``x``."""
        return self.logits(self.phi(x, c), c).sum(dim=1)


def _halve(shape: Shape) -> Shape:
    return Shape(shape.num_classes, shape.image_size // 2, shape.image_channels)
