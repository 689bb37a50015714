"""A small style-based generator.

Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2018),
with the modulated convolutions and skip connections of "Analyzing and Improving the Image Quality
of StyleGAN" (2019). The noise of an image is random in training and fixed afterwards, as with
``noise_mode="const"`` of the authors, because an image depends only on its latent.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.distributed import Batchwise
from imagemint.training.networks.convolutional import count_doublings
from imagemint.training.networks.layers import normalize_pixels
from imagemint.training.networks.players import Shape

_SLOPE = 0.2
_EPSILON = 1e-8
_W_MEAN_SHARE = 0.005
_MAPPING_GAIN = 0.01


class EqualLinear(nn.Module):
    """Dense layer whose weights are N(0, 1), and scaled when they are used.

    Adam then changes all weights at the same rate: Karras et al., "Progressive Growing of GANs"
    (2017), section 4.1.

    Args:
        inputs: features of the input.
        outputs: features of the output.
        bias: initial bias.
        learning_share: its learning rate as a share of that of other layers.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, learning_share: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_share)
        self.bias = nn.Parameter(torch.full((outputs,), bias / learning_share))
        self.gain = learning_share / math.sqrt(inputs)
        self.learning_share = learning_share

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, outputs] for ``x`` [N, inputs]."""
        return F.linear(x, self.weight * self.gain, self.bias * self.learning_share)


class MappingNetwork(nn.Module):
    """Maps latents on a sphere to the intermediate latents ``w``.

    Args:
        inputs: length of a latent, with that of the class embedding where there is one.
        w_dim: length of an intermediate latent.
        layers: dense layers.
    """

    def __init__(self, inputs: int, w_dim: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[w_dim] * layers]
        self.layers = nn.ModuleList(
            EqualLinear(a, b, learning_share=_MAPPING_GAIN) for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Returns ``w`` [N, w_dim] for ``z`` [N, inputs]."""
        h = normalize_pixels(z)
        for layer in self.layers:
            h = F.leaky_relu(layer(h), _SLOPE) * math.sqrt(2)
        return h


class ModulatedConvolution(nn.Module):
    """A convolution whose input channels are weighted by the style of each image.

    It scales the input, convolves with weights that all images share, and demodulates the output.
    The result equals that of a convolution with separate weights for each image, without a grouped
    convolution over a dynamic batch, which ONNX cannot express and CPUs compute slowly.

    Args:
        channels: channels of the input and of the output.
        kernel: its size.
        w_dim: length of an intermediate latent.
        demodulate: whether to scale the output's channels to unit variance.
    """

    def __init__(
        self, channels: tuple[int, int], kernel: int, w_dim: int, *, demodulate: bool = True
    ) -> None:
        super().__init__()
        inputs, outputs = channels
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.style = EqualLinear(w_dim, inputs, bias=1.0)
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.padding = kernel // 2
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Returns [N, outputs, H, W] for ``x`` [N, inputs, H, W] in the style of ``w``."""
        style = self.style(w)
        weight = self.weight * self.gain
        out = F.conv2d(x * style[:, :, None, None], weight, padding=self.padding)
        if self.demodulate:
            power = F.linear(style.square(), weight.square().sum(dim=(2, 3)))
            out = out * (power + _EPSILON).rsqrt()[:, :, None, None]
        return out + self.bias


class Noise(nn.Module):
    """Adds noise to every place, multiplied by one learned number that starts at 0.

    In training, each image has its own noise; in evaluation, all have the same.

    Args:
        size: height and width of the features.
    """

    fixed: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("fixed", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C, H, W] for ``x`` of that shape."""
        noise = torch.randn_like(x[:, :1]) if self.training else self.fixed
        return x + self.strength * noise


class StyleGenerator(nn.Module, Batchwise):
    """Mapping network, learned start, modulated convolutions, and pictures summed over all sizes.

    A class embedding has the length of a latent, as in the authors' code, and both are normalised
    together by the first layer of the mapping network.

    Args:
        z_dim: length of a latent.
        shape: shape of the images; with classes, an embedding of them is concatenated to the
            latent.
        w_dim: length of an intermediate latent.
        base_channels: channels at the smallest size; every doubling of the size halves them.
        mapping_layers: layers of the mapping network.
        noise: whether there is `Noise` behind each convolution.
        mixing: share of training batches in which the layers from a random one on get the style of
            other latents.
    """

    w_mean: Tensor

    def __init__(
        self,
        z_dim: int,
        shape: Shape,
        *,
        w_dim: int,
        base_channels: int,
        mapping_layers: int,
        noise: bool = False,
        mixing: float = 0.0,
    ) -> None:
        super().__init__()
        self.mixing = mixing
        start, count = count_doublings(shape.image_size)
        if shape.num_classes:
            self.embed = nn.Embedding(shape.num_classes, z_dim)
        inputs = 2 * z_dim if shape.num_classes else z_dim
        self.mapping = MappingNetwork(inputs, w_dim, mapping_layers)
        self.register_buffer("w_mean", torch.zeros(w_dim))
        self.start = nn.Parameter(torch.randn(base_channels, start, start))
        widths = [max(base_channels // 2**stage, 1) for stage in range(count + 1)]
        pairs = list(zip([base_channels, *widths[:-1]], widths, strict=True))
        self.first = nn.ModuleList(ModulatedConvolution(pair, 3, w_dim) for pair in pairs)
        self.second = nn.ModuleList(ModulatedConvolution((b, b), 3, w_dim) for _, b in pairs)
        self.to_image = nn.ModuleList(
            ModulatedConvolution((b, shape.image_channels), 1, w_dim, demodulate=False)
            for _, b in pairs
        )
        sizes = [start * 2**stage for stage in range(len(pairs)) for _ in ("first", "second")]
        self.noise = nn.ModuleList(Noise(size) if noise else nn.Identity() for size in sizes)

    def forward(
        self, z: Tensor, y: Tensor | None = None, truncation: Tensor | None = None
    ) -> Tensor:
        """Returns images [N, C, H, W], near [-1, 1].

        Args:
            z: latents [N, z_dim].
            y: classes int64 [N], where there are any.
            truncation: psi float32 [N, 1]: 1 leaves ``w`` unchanged, 0 replaces it by the mean of
                all ``w``; None is 1.
        """
        w = self.mapping(self._add_condition(z, y))
        if self.training:
            with torch.no_grad():
                self.w_mean.lerp_(
                    self.processes.all_reduce_mean(w.float().mean(dim=0)), _W_MEAN_SHARE
                )
        if truncation is not None:
            w = self.w_mean + (w - self.w_mean) * truncation
        styles = [w] * len(self.noise)
        if self.training and self.mixing and float(torch.rand(())) < self.mixing:
            first = int(torch.randint(1, len(styles), ()))
            other = self.mapping(self._add_condition(torch.randn_like(z), y))
            styles[first:] = [other] * (len(styles) - first)
        return self.synthesize(styles)

    def _add_condition(self, z: Tensor, y: Tensor | None) -> Tensor:
        return z if y is None else torch.cat([z, self.embed(y)], dim=1)

    def synthesize(self, styles: Sequence[Tensor]) -> Tensor:
        """Returns images [N, C, H, W] in the styles ``w`` [N, w_dim] of each convolution."""
        x = self.start.expand(len(styles[0]), *self.start.shape)
        image = torch.zeros(())
        for stage, to_image in enumerate(self.to_image):
            if stage:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
                image = F.interpolate(image, scale_factor=2, mode="bilinear")
            for layer, convolutions in ((2 * stage, self.first), (2 * stage + 1, self.second)):
                out = self.noise[layer](convolutions[stage](x, styles[layer]))
                x = F.leaky_relu(out, _SLOPE) * math.sqrt(2)
            stage_image = to_image(x, styles[2 * stage + 1])
            image = stage_image if stage == 0 else image + stage_image
        return image
