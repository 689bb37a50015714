"""Residual networks without normalisation layers, after R3GAN.

Huang et al., "The GAN is dead; long live the GAN! A Modern Baseline GAN" (2024): blocks of 1x1,
3x3 and 1x1 convolutions, of which the last starts at zero (Zhang et al., "Fixup Initialization",
2019), bilinear resampling, leaky ReLU, and nothing else. The paper groups the 3x3 convolutions by
16 channels, which pays on GPUs and costs on CPUs, so the number of groups is an option.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.convolutional import count_doublings
from imagemint.training.networks.layers import MinibatchDeviation
from imagemint.training.networks.players import Discriminator, Shape

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))


def _scale_weights(layer: nn.Conv2d | nn.Linear, gain: float) -> nn.Module:
    """Returns the layer with weights N(0, gain^2 / inputs) and a bias, if any, of zero."""
    inputs = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0, gain / math.sqrt(inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """``x + f(x)``, the identity at first.

    Args:
        channels: channels of input and output.
        expansion: factor of the channels of the 3x3 convolution.
        groups: groups of the 3x3 convolution.
        blocks: blocks of the network, which share the variance, as in Fixup.
    """

    def __init__(self, channels: int, *, expansion: int, groups: int, blocks: int) -> None:
        super().__init__()
        wide = channels * expansion
        gain = _GAIN * blocks**-0.25
        self.layers = nn.Sequential(
            _scale_weights(nn.Conv2d(channels, wide, 1), gain),
            nn.LeakyReLU(_SLOPE),
            _scale_weights(nn.Conv2d(wide, wide, 3, padding=1, groups=groups), gain),
            nn.LeakyReLU(_SLOPE),
            _scale_weights(nn.Conv2d(wide, channels, 1, bias=False), 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C, H, W] for ``x`` of that shape."""
        out: Tensor = x + self.layers(x)
        return out


class Resample(nn.Module):
    """Doubles or halves height and width bilinearly; a 1x1 convolution changes the channels.

    Args:
        channels: channels of the input and of the output.
        up: whether to double; otherwise it halves.
    """

    def __init__(self, channels: tuple[int, int], *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.project = (
            nn.Identity()
            if channels[0] == channels[1]
            else _scale_weights(nn.Conv2d(*channels, 1, bias=False), 1.0)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C', 2 H, 2 W] or [N, C', H / 2, W / 2] for ``x`` [N, C, H, W]."""
        if self.up:  # projected first, for a quarter of the work
            return F.interpolate(self.project(x), scale_factor=2, mode="bilinear")
        projected: Tensor = self.project(F.avg_pool2d(x, 2))
        return projected


def _compute_widths(shape: Shape, base_channels: int) -> tuple[int, list[int]]:
    """Returns the smallest size, and the channels at each size from there on."""
    start, count = count_doublings(shape.image_size)
    return start, [max(base_channels // 2**stage, 1) for stage in range(count + 1)]


class ResidualGenerator(nn.Module):
    """R3GAN's generator: a learned picture, whose channels the latent weights, then blocks.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; with classes, an embedding of them is concatenated to the
            latent.
        base_channels: channels at the smallest size; every doubling of the size halves them.
        blocks: residual blocks at each size.
        groups: groups of the 3x3 convolutions.
        c_dim: length of the class embedding.
    """

    def __init__(
        self,
        z_dim: int,
        shape: Shape,
        *,
        base_channels: int,
        blocks: int = 1,
        groups: int = 1,
        c_dim: int = 64,
    ) -> None:
        super().__init__()
        self.start, widths = _compute_widths(shape, base_channels)
        if shape.num_classes:
            self.embed = nn.Embedding(shape.num_classes, c_dim)
        inputs = z_dim + (c_dim if shape.num_classes else 0)
        self.weigh = _scale_weights(nn.Linear(inputs, widths[0], bias=False), 1.0)
        self.basis = nn.Parameter(_draw_normal(widths[0], self.start))
        layers: list[nn.Module] = []
        for stage, wide in enumerate(widths):
            if stage:
                layers.append(Resample((widths[stage - 1], wide), up=True))
            layers += [
                ResidualBlock(wide, expansion=2, groups=groups, blocks=blocks * len(widths))
                for _ in range(blocks)
            ]
        self.trunk = nn.Sequential(
            *layers, _scale_weights(nn.Conv2d(widths[-1], shape.image_channels, 1), 1.0)
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns images [N, C, H, W], near [-1, 1], for ``z`` [N, z_dim] and ``y`` int64 [N]."""
        inputs = z if y is None else torch.cat([z, self.embed(y)], dim=1)
        images: Tensor = self.trunk(self.weigh(inputs)[:, :, None, None] * self.basis)
        return images


class ResidualDiscriminator(Discriminator):
    """R3GAN's discriminator: the reverse of the generator, with a projection for classes.

    Args:
        shape: shape of the images; 0 classes for a discriminator without a condition.
        base_channels: channels at the smallest size; every doubling of the size halves them.
        blocks: residual blocks at each size.
        groups: groups of the 3x3 convolutions.
        deviation: whether one feature is the variation of the batch; see `MinibatchDeviation`.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        base_channels: int,
        blocks: int = 1,
        groups: int = 1,
        deviation: bool = False,
    ) -> None:
        super().__init__()
        start, widths = _compute_widths(shape, base_channels)
        layers = [_scale_weights(nn.Conv2d(shape.image_channels, widths[-1], 1), 1.0)]
        for stage in reversed(range(len(widths))):
            layers += [
                ResidualBlock(
                    widths[stage], expansion=2, groups=groups, blocks=blocks * len(widths)
                )
                for _ in range(blocks)
            ]
            if stage:
                layers.append(Resample((widths[stage], widths[stage - 1]), up=False))
        # The channels of the last picture are weighted, like those of the first one of G.
        last = nn.Conv2d(widths[0], widths[0], start, groups=widths[0], bias=False)
        tail = [MinibatchDeviation()] if deviation else []
        self.features = nn.Sequential(*layers, _scale_weights(last, 1.0), nn.Flatten(), *tail)
        self.score = _scale_weights(nn.Linear(widths[0] + deviation, 1, bias=False), 1.0)
        if shape.num_classes:
            self.embed = nn.Embedding(shape.num_classes, widths[0] + deviation)
            nn.init.zeros_(self.embed.weight)  # starts unconditional

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of images ``x`` [N, C, H, W]; the class is not used."""
        del c
        features: Tensor = self.features(x)
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F] of images of ``c`` [N]."""
        score: Tensor = self.score(phi).squeeze(1)
        return score if c is None else score + (self.embed(c) * phi).sum(dim=1)


def _draw_normal(channels: int, size: int) -> Tensor:
    return torch.randn(channels, size, size)
