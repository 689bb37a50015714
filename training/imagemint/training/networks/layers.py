"""Layers of the papers that PyTorch does not have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPSILON = 1e-8


def pixel_normal(x: Tensor) -> Tensor:
    """Returns features [N, F] or [N, F, H, W] with a mean square of 1 over F, at each place.

    Karras et al., "Progressive Growing of GANs" (2017), section 4.2. The mean is a product with
    constant weights, for ONNX Runtime's reductions add in an order that depends on the batch, and a
    serial would change its picture.
    """
    share = x.new_full((1, x.shape[1]), 1 / x.shape[1])
    squares = x.square()
    power = (
        F.linear(squares, share)
        if x.ndim == 2  # noqa: PLR2004 - axes
        else F.conv2d(squares, share[:, :, None, None])
    )
    return x * (power + _EPSILON).rsqrt()


class MinibatchDiscrimination(nn.Module):
    """Tells D how alike the images of a batch are.

    Salimans et al., "Improved Techniques for Training GANs" (2016), section 3.2.

    Args:
        features: F, of the input.
        kernels: similarities to add for each image.
        dims: length of the vectors that are compared.
    """

    def __init__(self, features: int, kernels: int = 32, dims: int = 5) -> None:
        super().__init__()
        self.project = nn.Linear(features, kernels * dims, bias=False)
        self.kernels = kernels

    def forward(self, phi: Tensor) -> Tensor:
        """Returns [N, F + kernels] for features [N, F]."""
        m = self.project(phi).unflatten(1, (self.kernels, -1))
        apart = (m[:, None] - m[None]).abs().sum(dim=3)
        alike = (-apart).exp().sum(dim=1) - 1  # less the image itself
        return torch.cat([phi, alike], dim=1)


class MinibatchDeviation(nn.Module):
    """Adds one feature: how much the batch varies.

    Karras et al., "Progressive Growing of GANs" (2017), section 3; over features instead of pixels.
    """

    def forward(self, phi: Tensor) -> Tensor:
        """Returns [N, F + 1] for features [N, F]."""
        deviation = phi.var(dim=0, unbiased=False).add(1e-8).sqrt().mean()
        return torch.cat([phi, deviation.expand(len(phi), 1)], dim=1)


class VirtualBatchNorm(nn.Module):
    """Batch normalisation by a fixed reference batch, so that images do not depend on each other.

    Salimans et al. (2016), section 3.4: statistics are those of the reference batch with the image
    itself added to it. In training the reference batch comes as the first rows of the input; in
    evaluation its statistics are those that training saw last.

    Args:
        channels: of the input.
        reference: rows of the reference batch.
    """

    mean: Tensor
    square: Tensor

    def __init__(self, channels: int, reference: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.reference = reference
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("square", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised ``x`` [N, C, H, W]."""
        mean, square = self.mean, self.square
        if self.training:
            known = x[: self.reference]
            mean = known.mean(dim=(0, 2, 3), keepdim=True)
            square = known.square().mean(dim=(0, 2, 3), keepdim=True)
            with torch.no_grad():
                self.mean.copy_(mean)
                self.square.copy_(square)
        share = 1 / (self.reference + 1)
        # Pooled, not reduced, for the reason that pixel_normal gives.
        whole = list(x.shape[2:])
        mean = mean.lerp(F.avg_pool2d(x, whole), share)
        square = square.lerp(F.avg_pool2d(x.square(), whole), share)
        normal = (x - mean) / (square - mean.square()).clamp_min(0).add(self.epsilon).sqrt()
        return normal * self.weight + self.bias
