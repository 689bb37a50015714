"""The discriminator of patches, PatchGAN."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.errors import DatasetError

_SLOPE = 0.2
_KERNEL = 4
_LEAST = 3  # pixels after the halvings, of which the last two layers take one each


class PatchDiscriminator(nn.Module):
    """Judges each patch of an image separately, and therefore its texture.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2016). With
    three layers a patch has 70 pixels a side, as in the paper; with two it has 34, about half of an
    image of 64. All layers but the first and the last have instance normalisation, as in CycleGAN
    (Zhu et al., 2017), which keeps the images of a batch independent. With spectral normalisation
    instead the hinge loss of D was still 1.97 after 6,000 images of `pix2pix`; 2 is chance.

    Args:
        channels: channels of the images, and of the source if D also sees it.
        base_channels: channels after the first layer; every further layer doubles them, up to eight
            times.
        layers: number of halvings.
    """

    def __init__(self, channels: int, *, base_channels: int, layers: int = 2) -> None:
        super().__init__()
        widths = [base_channels * min(2**level, 8) for level in range(layers + 1)]
        parts: list[nn.Module] = []
        inputs = channels
        for level, outputs in enumerate(widths):
            stride = 2 if level < layers else 1
            parts.append(nn.Conv2d(inputs, outputs, _KERNEL, stride, padding=1, bias=level == 0))
            if level:
                parts.append(nn.InstanceNorm2d(outputs, affine=True))
            parts.append(nn.LeakyReLU(_SLOPE))
            inputs = outputs
        self.judge = nn.Sequential(*parts, nn.Conv2d(inputs, 1, _KERNEL, padding=1))

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Returns a logit for each patch [N, 1, h, w] of the images ``x`` [N, C, H, W].

        A ``source`` [N, S, H', W'] is resized to their size by nearest neighbours and concatenated.
        """
        if source is not None:
            if source.shape[2:] != x.shape[2:]:
                source = F.interpolate(source, list(x.shape[2:]), mode="nearest")
            x = torch.cat([source, x], dim=1)
        logits: Tensor = self.judge(x)
        return logits


def check_patches(height: int, width: int, layers: int) -> None:
    """Raises `DatasetError` if a discriminator with these halvings cannot judge such images."""
    least = _LEAST * 2**layers
    if min(height, width) < least:
        raise DatasetError(
            f"images of {width}x{height} pixels are too small for a discriminator with {layers}"
            f" halvings, which needs {least}; bring them to a larger --size, or choose fewer"
            " --discriminator-layers"
        )
