"""Layers of papers that PyTorch does not have."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.distributed import Batchwise

_EPSILON = 1e-8
_NORMAL_QUANTILES = (
    torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16).float().numpy()
)


def normalize_pixels(x: Tensor) -> Tensor:
    """Returns features [N, F] or [N, F, H, W] with a mean square of 1 over F, at each place.

    Karras et al., "Progressive Growing of GANs" (2017), section 4.2. The mean is a product with
    constant weights, because ONNX Runtime's reductions add in an order that depends on the batch,
    which would change the picture of a serial.
    """
    share = x.new_full((1, x.shape[1]), 1 / x.shape[1])
    squares = x.square()
    power = (
        F.linear(squares, share)
        if x.ndim == 2  # noqa: PLR2004 - axes
        else F.conv2d(squares, share[:, :, None, None])
    )
    return x * (power + _EPSILON).rsqrt()


class BatchNorm2d(nn.BatchNorm2d, Batchwise):
    """Batch normalisation over the batch of all processes, on any device.

    Ioffe & Szegedy, "Batch Normalization" (2015). PyTorch's own SyncBatchNorm needs GPUs and has no
    second derivative.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised ``x`` [N, C, H, W]."""
        if not self.training or self.processes.world_size == 1:
            return super().forward(x)
        numbers = x.float()
        mean = self.processes.all_reduce_mean(numbers.mean(dim=(0, 2, 3)))
        centred = numbers - mean[:, None, None]
        variance = self.processes.all_reduce_mean(centred.square().mean(dim=(0, 2, 3)))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return normal * self.weight[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError(
                "set track_running_stats and momentum: the exported graph needs running statistics"
            )
        count *= self.processes.world_size
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class Dropout(nn.Dropout):
    """Dropout that takes a quarter of the time of PyTorch's for random numbers on a CPU.

    Srivastava et al., "Dropout" (2014). Drawing numbers one by one took as long as the previous
    layer. Here each word of a counter-based generator gives four decisions, so the dropped share is
    exact to 1 / 65,536. The key comes from PyTorch's generator, which the loop seeds by position,
    so a resumed run drops the same features. In compiled networks it is PyTorch's own dropout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` of any shape with a share of it zeroed and the rest scaled up."""
        elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or self.p == 0 or elsewhere:
            return super().forward(x)
        key = int(torch.randint(2**63 - 1, ()))
        words = np.random.Philox(key=key).random_raw(-(-x.numel() // 4)).view(np.int16)
        first_kept = min(max(round(self.p * 2**16), 1), 2**16 - 1) - 2**15
        kept = torch.from_numpy(words)[: x.numel()].clamp_(first_kept - 1, first_kept)
        return x * kept.sub_(first_kept - 1).float().mul_(1 / (1 - self.p)).view(x.shape)


class GaussianNoise(nn.Module):
    """Adds normal noise in training, and is the identity otherwise.

    Each word of a counter-based generator gives four numbers of a table of 65,536 quantiles, which
    on a CPU takes a third of the time of PyTorch's normal numbers. The key comes from PyTorch's
    generator, as that of `Dropout`. On other devices and in compiled networks the numbers are
    PyTorch's.

    Args:
        deviation: standard deviation of the noise.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` of any shape with noise on each element."""
        if not self.training or self.deviation == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return x + self.deviation * torch.randn_like(x)
        key = int(torch.randint(2**63 - 1, ()))
        words = np.random.Philox(key=key).random_raw(-(-x.numel() // 4)).view(np.uint16)
        noise = _NORMAL_QUANTILES.take(words[: x.numel()], mode="clip").reshape(x.shape)
        return x + self.deviation * torch.from_numpy(noise)


class WeightNormLinear(nn.Module, Batchwise):
    """A dense layer whose weight vectors have a direction and a length apart.

    Salimans & Kingma, "Weight Normalization" (2016). As in section 3, the first batch in training
    sets the lengths and the biases, such that each output has a mean of 0 and a variance of 1.

    Args:
        inputs: number of features of the input.
        outputs: number of features of the output.
        learned_length: whether the lengths are learnt after the first batch.
    """

    ready: Tensor

    def __init__(self, inputs: int, outputs: int, *, learned_length: bool = True) -> None:
        super().__init__()
        # The smaller these numbers are, the more a step of the optimiser turns a vector.
        self.direction = nn.Parameter(0.1 * torch.randn(outputs, inputs))
        self.length = nn.Parameter(torch.ones(outputs, 1), requires_grad=learned_length)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("ready", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, outputs] for ``x`` [N, inputs]."""
        if self.training and not self.ready:
            self._standardise(x)
        return F.linear(x, self.compute_weight(), self.bias)

    def compute_weight(self) -> Tensor:
        """Returns the weights [outputs, inputs]."""
        weight: Tensor = self.direction * (self.length / self.direction.norm(dim=1, keepdim=True))
        return weight

    @torch.no_grad()
    def _standardise(self, x: Tensor) -> None:
        found = self.processes.all_gather(F.linear(x, self.compute_weight()).float())
        deviation = found.std(dim=0, unbiased=False) + _EPSILON
        self.length.copy_((1 / deviation)[:, None])
        self.bias.copy_(-found.mean(dim=0) / deviation)
        self.ready.fill_(1)


class MinibatchDiscrimination(nn.Module, Batchwise):
    """Gives D the similarity of the images of a batch.

    Salimans et al., "Improved Techniques for Training GANs" (2016), section 3.2.

    Args:
        features: F, of the input.
        kernels: number of similarities to add for each image.
        dims: length of the vectors that are compared.
    """

    def __init__(self, features: int, kernels: int = 32, dims: int = 5) -> None:
        super().__init__()
        self.project = nn.Linear(features, kernels * dims, bias=False)
        self.kernels = kernels

    def forward(self, phi: Tensor) -> Tensor:
        """Returns [N, F + kernels] for features [N, F]."""
        m = self.project(phi).float().unflatten(1, (self.kernels, -1))
        distances = (m[:, None] - self.processes.all_gather(m)[None]).abs().sum(dim=3)
        alike = (-distances).exp().sum(dim=1) - 1  # without the image itself
        return torch.cat([phi, alike], dim=1)


class MinibatchDeviation(nn.Module, Batchwise):
    """Adds one feature: the variation of the batch.

    Karras et al., "Progressive Growing of GANs" (2017), section 3: the standard deviation of each
    feature at each place over the batch, averaged. The paper repeats the number as a map before the
    last convolution. Here it is one more feature after it.
    """

    def forward(self, phi: Tensor) -> Tensor:
        """Returns [N, F + 1] for features [N, F]."""
        batch = self.processes.all_gather(phi.float())
        deviation = batch.var(dim=0, unbiased=False).add(1e-8).sqrt().mean()
        return torch.cat([phi, deviation.expand(len(phi), 1)], dim=1)


class VirtualBatchNorm(nn.Module):
    """Batch normalisation by a fixed reference batch, so that images do not depend on each other.

    Salimans et al. (2016), section 3.5: an image is normalised by the statistics of the reference
    batch with the image itself added. In training, the reference batch is in the first rows of the
    input, and is normalised only by its own statistics, which contain its images. In evaluation,
    its statistics are the last ones of training.

    Args:
        channels: channels of the input.
        reference: number of rows of the reference batch.
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
        x = x.float()  # the variance is a small difference of large numbers
        mean, square = self.mean, self.square
        if self.training:
            known = x[: self.reference]
            mean = known.mean(dim=(0, 2, 3), keepdim=True)
            square = known.square().mean(dim=(0, 2, 3), keepdim=True)
            with torch.no_grad():
                self.mean.copy_(mean)
                self.square.copy_(square)
        share: Tensor | float = 1 / (self.reference + 1)
        if self.training:
            rows = torch.arange(len(x), device=x.device)[:, None, None, None]
            share = share * (rows >= self.reference).float()
        # Pooled, not reduced, for the reason in normalize_pixels.
        size = list(x.shape[2:])
        mean = mean.lerp(F.avg_pool2d(x, size), share)
        square = square.lerp(F.avg_pool2d(x.square(), size), share)
        normal = (x - mean) / (square - mean.square()).clamp_min(0).add(self.epsilon).sqrt()
        return normal * self.weight + self.bias
