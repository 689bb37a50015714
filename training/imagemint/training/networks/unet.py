"""The U-Net: a translator of images whose details bypass the bottleneck.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015), in the
form of pix2pix: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks"
(2016). Differences: the deepest maps keep 4 pixels on each side, so that batch normalisation has
several values; images are enlarged by nearest neighbours and a convolution, which avoids
checkerboard patterns (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016); there is no
dropout, so that a source has one result.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.errors import DatasetError
from imagemint.training.networks.layers import BatchNorm2d

_SLOPE = 0.2
_WIDEST = 8  # multiple of the base channels


class UNet(nn.Module):
    """Translates images to images of the same size.

    Args:
        source_channels: channels of the source, all frames and the mask together.
        channels: channels of the result.
        base_channels: channels at full size; every halving doubles them, up to eight times.
        depth: number of halvings.
    """

    def __init__(
        self, source_channels: int, channels: int, *, base_channels: int, depth: int = 4
    ) -> None:
        super().__init__()
        widths = [base_channels * min(2**level, _WIDEST) for level in range(depth + 1)]
        self.stem = nn.Sequential(
            nn.Conv2d(source_channels, widths[0], 3, padding=1), nn.LeakyReLU(_SLOPE)
        )
        self.down = nn.ModuleList(_make_halving(fine, coarse) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(
            # Twice the maps of all but the deepest level: its own and those from the way down.
            _smooth(coarse if level == depth else 2 * coarse, fine)
            for level, (fine, coarse) in reversed(list(enumerate(pairwise(widths), start=1)))
        )
        self.last = nn.Conv2d(2 * widths[0], channels, 3, padding=1)

    def forward(self, source: Tensor) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1] of ``source`` [N, S, H, W] in [-1, 1].

        Height and width are multiples of 2 to the power of the depth.
        """
        x = self.stem(source)
        around = []
        for halve in self.down:
            around.append(x)
            x = halve(x)
        for smooth in self.up:
            x = smooth(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = torch.cat([x, around.pop()], dim=1)
        images: Tensor = self.last(x).tanh()
        return images


def check_halvings(height: int, width: int, depth: int) -> None:
    """Raises `DatasetError` if a U-Net of this depth cannot translate images of this size."""
    if height % 2**depth or width % 2**depth:
        raise DatasetError(
            f"sources of {width}x{height} pixels cannot be halved {depth} times; bring them to"
            f" multiples of {2**depth} with --size, or choose a smaller --depth"
        )


def _make_halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        BatchNorm2d(outputs),
        nn.LeakyReLU(_SLOPE),
    )


def _smooth(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm2d(outputs), nn.ReLU()
    )
