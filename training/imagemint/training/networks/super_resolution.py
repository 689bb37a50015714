"""SRResNet: a network that enlarges images."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

_LARGE = 5  # kernel of the first and the last layer


class SRResNet(nn.Module):
    """Enlarges images by a power of two, at any size.

    Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
    Network" (2016): residual blocks at the size of the source, then sub-pixel convolutions (Shi et
    al., 2016). Differences: no batch normalisation, which leaves artefacts and makes an image
    depend on the statistics of others (Lim et al., "Enhanced Deep Residual Networks", 2017); and
    the network draws the difference from bilinear enlargement, from which it starts. The first and
    the last kernel are 5x5 instead of 9x9, which would be a third of all work and widen the overlap
    of tiles.

    Args:
        source_channels: channels of the source, as many as the result has.
        base_channels: channels of all layers.
        blocks: number of residual blocks.
        scale: a power of two.

    Attributes:
        radius: distance in source pixels up to which they affect a result.
    """

    def __init__(
        self, source_channels: int, *, base_channels: int, blocks: int, scale: int
    ) -> None:
        super().__init__()
        doublings = int(math.log2(scale))
        if 2**doublings != scale:
            raise ValueError(f"scale is {scale}, not a power of two")
        wide = base_channels
        self.scale = scale
        self.stem = nn.Sequential(
            nn.Conv2d(source_channels, wide, _LARGE, padding=_LARGE // 2), nn.PReLU(wide)
        )
        self.blocks = nn.Sequential(*(_Block(wide) for _ in range(blocks)), _make_convolution(wide))
        growth: list[nn.Module] = []
        for _ in range(doublings):
            growth += [_make_convolution(wide, 4 * wide), nn.PixelShuffle(2), nn.PReLU(wide)]
        last = nn.Conv2d(wide, source_channels, _LARGE, padding=_LARGE // 2)
        nn.init.normal_(last.weight, 0, 1e-3)
        self.growth = nn.Sequential(*growth, last)
        fine = sum(2.0**-level for level in range(doublings)) + _LARGE // 2 / scale
        self.radius = _LARGE // 2 + 2 * blocks + 1 + math.ceil(fine)

    def forward(self, source: Tensor) -> Tensor:
        """Returns images [N, C, scale H, scale W] near [-1, 1] of ``source`` [N, C, H, W]."""
        x = self.stem(source)
        residual: Tensor = self.growth(x + self.blocks(x))
        plain = F.interpolate(source, scale_factor=float(self.scale), mode="bilinear")
        return plain + residual


class _Block(nn.Module):
    """x + conv(prelu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _make_convolution(channels), nn.PReLU(channels), _make_convolution(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def _make_convolution(inputs: int, outputs: int | None = None) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs or inputs, 3, padding=1)
