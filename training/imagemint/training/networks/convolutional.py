"""Convolutional networks after DCGAN, with and without a class.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks" (2015): strided convolutions instead of pooling, no hidden dense layer, batch
normalisation, ReLU and tanh in G, leaky ReLU in D.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from imagemint.training.errors import DatasetError
from imagemint.training.networks.layers import BatchNorm2d, VirtualBatchNorm
from imagemint.training.networks.players import Discriminator, Shape

_LARGEST_START = 7
_SLOPE = 0.2
_DCGAN_DEVIATION = 0.02

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Norm = Callable[[int], nn.Module]
"""Makes the normalisation after a convolution with this number of channels."""


def count_doublings(image_size: int) -> tuple[int, int]:
    """Returns the smallest size of a network, at most 7, and its doublings: 28 -> (7, 2).

    Raises:
        DatasetError: the size is not such a number times a power of two.
    """
    start, count = image_size, 0
    while start > _LARGEST_START and start % 2 == 0:
        start, count = start // 2, count + 1
    if start > _LARGEST_START or count == 0:
        raise DatasetError(
            f"images of {image_size} pixels a side cannot be halved down to 7 or fewer, as this"
            " recipe does; bring them to 28, 32, 64 or the like with --size"
        )
    return start, count


class ConditionalGenerator(nn.Module):
    """DCGAN generator, conditioned by concatenating a class embedding to the latent.

    The condition enters as in Mirza & Osindero, "Conditional Generative Adversarial Nets" (2014).
    Batch normalisation costs nothing once exported: in evaluation mode it is affine, and the
    exporter folds it into the neighbouring convolution.

    Args:
        z_dim: length of a latent.
        num_classes: number of classes K; 0 for a generator without a condition.
        c_dim: length of the learned class embedding; not used without a condition.
        base_channels: channels at the smallest size; every doubling of the size halves them.
        image_channels: 1 for gray, 3 for RGB.
        image_size: height and width; see `count_doublings`.
        norm: makes the normalisation layers.
    """

    def __init__(
        self,
        z_dim: int,
        num_classes: int,
        *,
        c_dim: int,
        base_channels: int,
        image_channels: int,
        image_size: int = 28,
        norm: Norm = BatchNorm2d,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.num_classes = num_classes
        self.image_channels = image_channels
        self.image_size = image_size
        self.start, count = count_doublings(image_size)
        if num_classes:
            self.embed = nn.Embedding(num_classes, c_dim)
        inputs = z_dim + (c_dim if num_classes else 0)
        self.project = nn.Linear(inputs, base_channels * self.start**2, bias=False)
        wide = base_channels
        trunk = [norm(wide), nn.ReLU()]
        for _ in range(count):
            upward = nn.ConvTranspose2d(wide, max(wide // 2, 1), 4, stride=2, padding=1, bias=False)
            wide = max(wide // 2, 1)
            trunk += [upward, norm(wide), nn.ReLU()]
        self.trunk = nn.Sequential(*trunk, nn.Conv2d(wide, image_channels, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1] for ``z`` [N, z_dim] and ``y`` int64 [N]."""
        h = self.project(z if y is None else torch.cat([z, self.embed(y)], dim=1))
        images: Tensor = self.trunk(h.unflatten(1, (-1, self.start, self.start)))
        return images


def _make_downsampling(
    channels: int, base_channels: int, image_size: int, *, norm: Norm, plain: bool
) -> tuple[list[nn.Module], int, int]:
    """Returns strided convolutions down to about 4x4, and their output channels and size.

    Args:
        channels: channels of the input.
        base_channels: channels of the first convolution; every halving of the size doubles them.
        image_size: size of the input.
        norm: makes the normalisation layers; there is none after the first, as in the paper.
        plain: whether to omit the normalisation.
    """
    _, count = count_doublings(image_size)
    size, wide = image_size, base_channels
    layers: list[nn.Module] = []
    for layer in range(count):
        layers.append(nn.Conv2d(channels, wide, 4, stride=2, padding=1, bias=plain or layer == 0))
        if layer and not plain:
            layers.append(norm(wide))
        layers.append(nn.LeakyReLU(_SLOPE))
        channels, wide, size = wide, 2 * wide, size // 2
    if size > 4:  # noqa: PLR2004 - 28 halves to 7, which 3x3 brings to 4
        layers.append(nn.Conv2d(channels, wide, 3, stride=2, padding=1, bias=plain))
        layers += [nn.LeakyReLU(_SLOPE)] if plain else [norm(wide), nn.LeakyReLU(_SLOPE)]
        channels, size = wide, (size + 1) // 2
    return layers, channels, size


class ProjectionDiscriminator(Discriminator):
    """Plain convolutional discriminator with a projection head, without normalisation.

    ``D(x, y) = w . phi(x) + embed(y) . phi(x)`` after Miyato & Koyama, "cGANs with Projection
    Discriminator" (2018). It has no normalisation layer, because the gradient penalties that
    stabilise it are per sample, and batch statistics would connect samples.

    Args:
        num_classes: number of classes K; 0 for a discriminator without a condition.
        base_channels: channels at half the size; every halving of the size doubles them.
        image_channels: 1 for gray, 3 for RGB.
        image_size: height and width.
    """

    def __init__(
        self, num_classes: int, *, base_channels: int, image_channels: int, image_size: int = 28
    ) -> None:
        super().__init__()
        layers, wide, size = _make_downsampling(
            image_channels, base_channels, image_size, norm=nn.Identity, plain=True
        )
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.score = nn.Linear(wide * size**2, 1)
        if num_classes:
            self.embed = nn.Embedding(num_classes, wide * size**2)
            # At zero the projection starts without a condition and grows only if the data require
            # it. The default N(0, 1) over 2,048 features would hide the score in noise at first.
            nn.init.zeros_(self.embed.weight)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of ``x`` [N, C, H, W]; the class is not used."""
        del c
        features: Tensor = self.features(x)
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` of images with ``c`` int64 [N]."""
        score: Tensor = self.score(phi).squeeze(1)
        return score if c is None else score + (self.embed(c) * phi).sum(dim=1)


NORMS: dict[str, Norm] = {
    "batch": BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "none": nn.Identity,
}
"""Normalisation of a discriminator by name. Layer normalisation, unlike that of batches, keeps
images apart, as gradient penalties need it (Gulrajani et al., 2017)."""


class ConvolutionalDiscriminator(Discriminator):
    """DCGAN discriminator: strided convolutions, normalised but for the first, and leaky ReLU.

    Args:
        shape: shape of the images.
        base_channels: channels at half the size; every halving of the size doubles them.
        norm: a key of `NORMS`.
        spectral: whether to divide every weight by its largest singular value, so that D is
            Lipschitz: Miyato
            et al., "Spectral Normalization for Generative Adversarial Networks" (2018).
        concatenated: whether D gets the class as one more plane of the image, learned for each
            class
            (Mirza & Osindero, "Conditional Generative Adversarial Nets", 2014).
        projected: whether D gets the class by projection (Miyato & Koyama, 2018).
        spectral_embedding: whether spectral normalisation also divides the projection's embedding
            by its largest singular value, as the authors do. Otherwise the effect of the class has
            no bound.
        tail: makes the layer after the features from their number; its output is their new number.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        base_channels: int,
        norm: str = "batch",
        spectral: bool = False,
        concatenated: bool = False,
        projected: bool = False,
        spectral_embedding: bool = False,
        tail: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        if concatenated:
            self.plane = nn.Embedding(shape.num_classes, shape.image_size**2)
        layers, wide, size = _make_downsampling(
            shape.image_channels + concatenated,
            base_channels,
            shape.image_size,
            norm=NORMS[norm],
            plain=norm == "none",
        )
        flat = wide * size**2
        self.features = nn.Sequential(*layers, nn.Flatten(), tail(flat))
        with torch.no_grad():
            self.features.eval()
            probe = torch.zeros(2, shape.image_channels + concatenated, *[shape.image_size] * 2)
            self.width: int = self.features(probe).shape[1]
            self.features.train()
        self.score = nn.Linear(self.width, 1)
        if projected:
            self.embed = nn.Embedding(shape.num_classes, self.width)
            if spectral and spectral_embedding:
                nn.init.xavier_uniform_(self.embed.weight)  # 0 has no direction to normalise
                nn.utils.parametrizations.spectral_norm(self.embed)
            else:
                nn.init.zeros_(self.embed.weight)  # as in ProjectionDiscriminator
        self._concatenated, self._projected = concatenated, projected
        if spectral:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.utils.parametrizations.spectral_norm(layer)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of images ``x`` [N, C, H, W] with condition ``c`` [N]."""
        if self._concatenated and c is not None:
            plane = self.plane(c).unflatten(1, (1, *x.shape[2:]))
            x = torch.cat([x, plane], dim=1)
        features: Tensor = self.features(x)
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F] of images of ``c`` [N]."""
        score: Tensor = self.score(phi).squeeze(1)
        if self._projected and c is not None:
            score = score + (self.embed(c) * phi).sum(dim=1)
        return score


def add_heads(
    D: ConvolutionalDiscriminator, *, hidden: int = 0, **heads: int
) -> ConvolutionalDiscriminator:
    """Returns D with further heads on its features: dense layers with these numbers of outputs.

    Args:
        D: the discriminator.
        hidden: features of a hidden layer of each head, with batch normalisation; 0: no such layer.
        heads: number of outputs of each head, by its name.
    """
    for name, outputs in heads.items():
        D.heads[name] = _make_head(D.width, hidden, outputs)
    return D


def _make_head(inputs: int, hidden: int, outputs: int) -> nn.Module:
    if not hidden:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.Unflatten(1, (hidden, 1, 1)),
        BatchNorm2d(hidden),
        nn.Flatten(),
        nn.LeakyReLU(_SLOPE),
        nn.Linear(hidden, outputs),
    )


def init_dcgan_weights(network: NetworkT) -> NetworkT:
    """Returns the network with weights from N(0, 0.02), scales of batch norms from N(1, 0.02).

    Biases keep PyTorch's initial values; the authors have 0.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, _DCGAN_DEVIATION)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, _DCGAN_DEVIATION)
    return network


class VirtuallyNormalisedGenerator(ConditionalGenerator):
    """The DCGAN generator with virtual batch normalisation; see `VirtualBatchNorm`.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; without a condition.
        base_channels: channels at the smallest size.
        reference: latents of the reference batch, drawn once and kept.
    """

    z_reference: Tensor

    def __init__(
        self, z_dim: int, shape: Shape, *, base_channels: int, reference: int = 64
    ) -> None:
        super().__init__(
            z_dim,
            0,
            c_dim=0,
            base_channels=base_channels,
            image_channels=shape.image_channels,
            image_size=shape.image_size,
            norm=lambda channels: VirtualBatchNorm(channels, reference),
        )
        self.register_buffer("z_reference", torch.randn(reference, z_dim))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1] for ``z`` [N, z_dim]."""
        if not self.training:
            return super().forward(z, y)
        images = super().forward(torch.cat([self.z_reference, z]), y)
        return images[len(self.z_reference) :]
