"""Networks for pictures whose class and attributes are known, sized for CPUs.

The generator's layers end at half the size, and pixel shuffling completes the picture. The
discriminator begins with the reverse step. Class and attributes enter the generator as scales and
biases after each normalisation, as in de Vries et al., "Modulating early visual processing by
language" (2017) and Brock et al., "Large Scale GAN Training for High Fidelity Natural Image
Synthesis" (2018), and the discriminator by projection (Miyato & Koyama, 2018).
"""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.convolutional import count_doublings
from imagemint.training.networks.layers import BatchNorm2d
from imagemint.training.networks.players import Discriminator, Shape

Frequencies = Mapping[str, NDArray[np.float64]]
"""How often each class has each value of each attribute: float64 [classes, values] by name."""

_SLOPE = 0.2
_ENDLESS = 40.0  # beyond any latent: float32 normal numbers end near 8


class Condition(nn.Module):
    """Converts a latent and a class to one vector: embeddings of class and attributes, and z.

    Attributes that are not given are drawn from the latent: the first A elements of z, one for each
    attribute, are cut into intervals whose probabilities are the frequencies of the values.

    Args:
        z_dim: length of a latent, more than A.
        num_classes: number of classes K; 0 for none.
        c_dim: length of each embedding.
        frequencies: frequencies of the attributes; empty where there are none.

    Attributes:
        noise: number of elements of the vector that are of the latent; the first ones.
        width: length of the vector.
    """

    def __init__(
        self, z_dim: int, num_classes: int, *, c_dim: int, frequencies: Frequencies
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, c_dim) if num_classes else None
        self.attributes = nn.ModuleList()
        for name, table in frequencies.items():
            self.attributes.append(nn.Embedding(table.shape[1], c_dim))
            self.register_buffer(f"limits_{name}", torch.from_numpy(compute_limits(table)))
        self._names = list(frequencies)
        self.noise: int = z_dim - len(frequencies)
        self.width: int = self.noise + c_dim * (bool(num_classes) + len(frequencies))

    def compute_codes(self, z: Tensor, y: Tensor) -> Tensor:
        """Returns the attributes int64 [N, A] that latents [N, z_dim] have in classes [N]."""
        columns = [
            (z[:, k, None] > self.get_buffer(f"limits_{name}")[y]).long().sum(dim=1)
            for k, name in enumerate(self._names)
        ]
        return torch.stack(columns, dim=1)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Returns [N, width] for ``z`` [N, z_dim] and ``y``.

        Args:
            z: latents.
            y: classes int64 [N]; or classes and attributes int64 [N, 1 + A]; None without classes.
        """
        if y is None or self.embed is None:
            return z
        has_codes = y.ndim == 2  # noqa: PLR2004 - axes
        classes = y[:, 0] if has_codes else y
        parts = [z[:, len(self._names) :], self.embed(classes)]
        if self._names:
            codes = y[:, 1:] if has_codes else self.compute_codes(z, classes)
            parts += [embed(codes[:, k]) for k, embed in enumerate(self.attributes)]
        return torch.cat(parts, dim=1)


def compute_limits(table: NDArray[np.float64]) -> NDArray[np.float32]:
    """Returns the limits of normal numbers between the values: [classes, values - 1].

    Args:
        table: frequencies [classes, values], whose rows sum to 1.
    """
    limits = ndtri(np.clip(np.cumsum(table, axis=1)[:, :-1], 0, 1))
    # A sum of parts may differ from 1 in the last bit, and infinities are no constants for a graph.
    limits[np.cumsum(table, axis=1)[:, :-1] > 1 - 1e-9] = _ENDLESS
    return np.clip(limits, -_ENDLESS, _ENDLESS).astype(np.float32)


class ScaledNorm(nn.Module):
    """Batch normalisation, then a scale and a bias for each channel that the condition gives.

    Args:
        channels: channels of the input.
        width: length of the condition.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels)
        self.scale = nn.Linear(width, 2 * channels, bias=False)
        # Small at first, so that a fresh network has plain normalisation.
        nn.init.normal_(self.scale.weight, 0, 0.3 / width**0.5)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Returns ``x`` [N, C, H, W] normalised and scaled by ``condition`` [N, width]."""
        scale, bias = self.scale(condition)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.norm(x) * (1 + scale) + bias
        return out


def make_upsampling(wide: int, narrow: int, *, few: bool) -> nn.Module:
    """Returns layers that double the size, either with ``few`` weights or in half the time.

    A transposed 4x4 convolution has 4 taps for each pixel, and a 3x3 one after nearest upsampling
    has 9. But it has 16 weights instead of 9, which matters with many channels.
    """
    if few:
        conv = nn.Conv2d(wide, narrow, 3, padding=1, bias=False)
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv)
    return nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)


def complete(painted: Tensor) -> Tensor:
    """Returns images [N, C, 2 H, 2 W] in [-1, 1] of what was painted, [N, 4 C, H, W]."""
    return torch.tanh(F.pixel_shuffle(painted, 2))


class AttributeGenerator(nn.Module):
    """Upsamples from 4x4 to half the size, then shuffles pixels.

    Args:
        z_dim: length of a latent.
        shape: shape of the images.
        c_dim: length of each embedding of class and attributes.
        base_channels: channels at 4x4 and 8x8; every further doubling halves them.
        frequencies: frequencies of the attributes; empty where there are none.
        scales: whether the condition enters at every normalisation; otherwise only at the first
            layer.
    """

    def __init__(
        self,
        z_dim: int,
        shape: Shape,
        *,
        c_dim: int,
        base_channels: int,
        frequencies: Frequencies,
        scales: bool = True,
    ) -> None:
        super().__init__()
        self.start, count = count_doublings(shape.image_size)
        self.condition = Condition(z_dim, shape.num_classes, c_dim=c_dim, frequencies=frequencies)
        condition_dim = self.condition.width
        widths = [base_channels] + [max(base_channels >> k, 1) for k in range(count - 1)]
        self.project = nn.Linear(condition_dim, widths[0] * self.start**2, bias=False)
        self.upward = nn.ModuleList(
            make_upsampling(wide, narrow, few=k == 0)
            for k, (wide, narrow) in enumerate(itertools.pairwise(widths))
        )
        self.scales = scales
        self.norms = nn.ModuleList(
            ScaledNorm(wide, condition_dim) if scales else BatchNorm2d(wide) for wide in widths
        )
        self.paint = nn.Conv2d(widths[-1], 4 * shape.image_channels, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1].

        Args:
            z: latents [N, z_dim].
            y: classes int64 [N], or classes and attributes int64 [N, 1 + A].
        """
        return complete(self.paint(self.compute_hidden(self.condition(z, y))))

    def compute_hidden(self, condition: Tensor) -> Tensor:
        """Returns features [N, C', H / 2, W / 2] of ``condition`` [N, width]."""
        h = self.project(condition).unflatten(1, (-1, self.start, self.start))
        h = F.relu(self._normalize(0, h, condition))
        for k, upwards in enumerate(self.upward, start=1):
            h = F.relu(self._normalize(k, upwards(h), condition))
        return h

    def _normalize(self, k: int, h: Tensor, condition: Tensor) -> Tensor:
        normalised: Tensor = self.norms[k](h, condition) if self.scales else self.norms[k](h)
        return normalised


class AttributeDiscriminator(Discriminator):
    """Unshuffles pixels, halves the size by strided convolutions, and projects the condition.

    There is a dense layer between maps and projection, because with 4,096 features a step of the
    embeddings changed the logits so much that training became unstable.

    Args:
        shape: shape of the images.
        base_channels: channels at half the size; every halving doubles them.
        values: number of values of each attribute.
    """

    def __init__(self, shape: Shape, *, base_channels: int, values: list[int]) -> None:
        super().__init__()
        start, count = count_doublings(shape.image_size)
        wide = base_channels
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * shape.image_channels, wide, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
        ]
        for _ in range(count - 1):
            layers += [nn.Conv2d(wide, 2 * wide, 4, 2, padding=1), nn.LeakyReLU(_SLOPE)]
            wide *= 2
        width = 2 * wide
        dense = nn.Linear(wide * start**2, width)
        self.features = nn.Sequential(*layers, nn.Flatten(), dense, nn.LeakyReLU(_SLOPE))
        self.score = nn.Linear(width, 1)
        tables = [shape.num_classes, *values] if shape.num_classes else []
        # At zero it starts without a condition, like ProjectionDiscriminator.
        self.embeds = nn.ModuleList(
            nn.Embedding(number, width, _weight=torch.zeros(number, width)) for number in tables
        )

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of ``x`` [N, C, H, W]; the condition is not used."""
        del c
        features: Tensor = self.features(x)
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for features [N, F].

        Args:
            phi: features of the images.
            c: their classes int64 [N], or classes and attributes int64 [N, 1 + A].
        """
        score: Tensor = self.score(phi).squeeze(1)
        if c is None:
            return score
        columns = (c if c.ndim == 2 else c[:, None]).unbind(dim=1)  # noqa: PLR2004 - axes
        weights = [embed(column) for embed, column in zip(self.embeds, columns, strict=False)]
        # Divided by the root of their number, because a dozen embeddings that learn together would
        # overshoot.
        embedding = torch.stack(weights).sum(dim=0) / len(weights) ** 0.5
        logits: Tensor = score + (embedding * phi).sum(dim=1)
        return logits
