"""Networks whose discriminator is a classifier of K + 1 classes, and the generator beside them.

Salimans et al., "Improved Techniques for Training GANs" (2016), section 5, and the authors' code
for MNIST, https://github.com/openai/improved-gan.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.convolutional import ConvolutionalDiscriminator
from imagemint.training.networks.layers import BatchNorm2d, GaussianNoise, WeightNormLinear
from imagemint.training.networks.players import Discriminator, Shape


class SemiSupervisedDiscriminator(ConvolutionalDiscriminator):
    """K + 1 classes, the last of them "generated", whose score is fixed at 0.

    With the scores l_1 to l_K, ``D(x) = Z / (Z + 1)`` for ``Z = sum exp l_k``, so the logit of D is
    log Z.
    """

    def __init__(self, shape: Shape, *, base_channels: int, norm: str = "none") -> None:
        super().__init__(shape, base_channels=base_channels, norm=norm)
        del self.score
        self.heads["classes"] = nn.Linear(self.width, shape.num_classes)

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns log Z [N] for the features ``phi`` [N, F]; ``c`` is not used."""
        del c
        return torch.logsumexp(self.heads["classes"](phi), dim=1)


class DenseSemiSupervisedDiscriminator(Discriminator):
    """K + 1 classes by the dense layers of the authors, with noise before each of them.

    Weight vectors of hidden layers keep the length that the first batch gives them, so that D
    cannot make features large beside the noise. The last layer learns its lengths.

    Args:
        shape: shape of the images.
        width: features of the first layer; the next one has half of them, and three more a quarter.
        pixel_noise: standard deviation of the noise on images in [0, 1].
        feature_noise: standard deviation of the noise before each further layer.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        width: int = 1000,
        pixel_noise: float = 0.3,
        feature_noise: float = 0.5,
    ) -> None:
        super().__init__()
        pixels = shape.image_channels * shape.image_size**2
        widths = (pixels, width, width // 2, *[width // 4] * 3)
        layers: list[nn.Module] = []
        for layer, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [
                GaussianNoise(feature_noise if layer else pixel_noise),
                WeightNormLinear(inputs, outputs, learned_length=False),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        last = WeightNormLinear(widths[-1], shape.num_classes)
        self.heads["classes"] = nn.Sequential(GaussianNoise(feature_noise), last)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of images ``x`` [N, C, H, W], without the last noise."""
        del c
        features: Tensor = self.features((x.flatten(1) + 1) / 2)
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns log Z [N] for the features ``phi`` [N, F]; ``c`` is not used."""
        del c
        return torch.logsumexp(self.heads["classes"](phi), dim=1)


class DenseGenerator(nn.Module):
    """The authors' dense generator: two hidden layers with batch normalisation and softplus.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; without a condition.
        width: features of each hidden layer.
    """

    def __init__(self, z_dim: int, shape: Shape, *, width: int = 500) -> None:
        super().__init__()
        self.shape = shape
        widths = (z_dim, width, width)
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm2d(features) for features in widths[1:])
        self.last = nn.Linear(widths[-1], shape.image_channels * shape.image_size**2)

    def forward(self, z: Tensor) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1] for ``z`` [N, z_dim]."""
        h = z
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            h = F.softplus(norm(layer(h)[:, :, None, None]).flatten(1))
        size = self.shape.image_size
        images: Tensor = self.last(h).unflatten(1, (self.shape.image_channels, size, size)).tanh()
        return images
