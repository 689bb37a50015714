"""Networks without a convolution, as in the first paper.

Goodfellow et al., "Generative Adversarial Nets" (2014).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from imagemint.training.networks.layers import Dropout
from imagemint.training.networks.players import Discriminator, Shape

_SLOPE = 0.2


class MlpGenerator(nn.Module):
    """Dense layers, each twice as wide as the previous one, and tanh.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; with classes, their one-hot code is concatenated to the latent.
        width: width of the first layer.
        depth: hidden layers.
    """

    def __init__(self, z_dim: int, shape: Shape, *, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.shape = shape
        widths = [z_dim + shape.num_classes, *(width * 2**layer for layer in range(depth))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE)]
        pixels = shape.image_channels * shape.image_size**2
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], pixels), nn.Tanh())

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1] for ``z`` [N, z_dim] and ``y`` int64 [N]."""
        inputs = z if y is None else torch.cat([z, one_hot(y, self.shape.num_classes)], dim=1)
        size = self.shape.image_size
        images: Tensor = self.layers(inputs).unflatten(1, (self.shape.image_channels, size, size))
        return images


class MlpDiscriminator(Discriminator):
    """Dense layers, each half as wide as the previous one, with dropout.

    Args:
        shape: shape of the images; with classes, their one-hot code is concatenated to the pixels.
        width: width of the first layer.
        depth: hidden layers.
        dropout: share of features dropped in training.
    """

    def __init__(
        self, shape: Shape, *, width: int = 1024, depth: int = 3, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.num_classes = shape.num_classes
        pixels = shape.image_channels * shape.image_size**2
        widths = [pixels + shape.num_classes, *(width // 2**layer for layer in range(depth))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE), Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1], 1)

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of images ``x`` [N, C, H, W] with condition ``c`` [N]."""
        flat = x.flatten(1)
        inputs = flat if c is None else torch.cat([flat, one_hot(c, self.num_classes)], dim=1)
        features: Tensor = self.features(inputs)
        return features

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F]; ``c`` is known to them."""
        del c
        score: Tensor = self.score(phi).squeeze(1)
        return score


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """Returns float32 [N, K], 1 at each class of ``y`` int64 [N].

    It compares, because PyTorch's one_hot has no float32 form in ONNX.
    """
    return (y[:, None] == torch.arange(num_classes, device=y.device)).float()
