"""The residual generator of CycleGAN, and a pair of them."""

from typing import cast

from torch import Tensor, nn

from imagemint.training.errors import DatasetError

_STEP = 4  # two halvings


class ResnetGenerator(nn.Module):
    """Translates images: halves them twice, applies residual blocks, and doubles them twice.

    Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (2016), in
    the form of CycleGAN: Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent
    Adversarial Networks" (2017), with instance normalisation (Ulyanov et al., 2016) and reflected
    borders. Differences: images are enlarged by nearest neighbours and a convolution; with
    ``residual`` the network draws the change of the source, so that its first results equal the
    source.

    Args:
        source_channels: channels of the source.
        channels: channels of the result.
        base_channels: channels at full size; each of the two halvings doubles them.
        blocks: number of residual blocks.
        residual: whether the result is the source plus the output of the network; then the source
            needs as many channels as the result.
    """

    def __init__(
        self,
        source_channels: int,
        channels: int,
        *,
        base_channels: int,
        blocks: int,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and source_channels != channels:
            raise ValueError(f"{channels} channels cannot be added to {source_channels}")
        wide = base_channels
        self.residual = residual
        self.layers = nn.Sequential(
            *_make_layer(source_channels, wide, 7),
            *_make_layer(wide, 2 * wide, 3, stride=2),
            *_make_layer(2 * wide, 4 * wide, 3, stride=2),
            *(_Block(4 * wide) for _ in range(blocks)),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            *_make_layer(4 * wide, 2 * wide, 3),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            *_make_layer(2 * wide, wide, 3),
            nn.Conv2d(wide, channels, 7, padding=3, padding_mode="reflect"),
        )
        if residual:  # the first results are near the source
            last = cast("nn.Conv2d", self.layers[-1])
            nn.init.normal_(last.weight, 0, 1e-3)

    def forward(self, source: Tensor) -> Tensor:
        """Returns images [N, C, H, W] in [-1, 1] of ``source`` [N, S, H, W] in [-1, 1].

        Height and width are multiples of 4.
        """
        output: Tensor = self.layers(source)
        return (source + output).clamp(-1, 1) if self.residual else output.tanh()


def check_quarters(height: int, width: int) -> None:
    """Raises `DatasetError` if a `ResnetGenerator` cannot translate images of this size."""
    if height % _STEP or width % _STEP:
        raise DatasetError(
            f"images of {width}x{height} pixels cannot be halved twice, as this recipe does; bring"
            f" them to multiples of {_STEP} with --size"
        )


class _Block(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_make_layer(channels, channels, 3), *_make_layer(channels, channels, 3)[:2]
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def _make_layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect", bias=False
        ),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.ReLU(),
    ]


class TwoWay(nn.Module):
    """Two translators: from sources to targets, and back.

    Args:
        there: translator from sources to targets.
        back: translator from targets to sources.
    """

    def __init__(self, there: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.there = there
        self.back = back

    def forward(self, source: Tensor) -> Tensor:
        """Returns the result [N, C, H, W] of ``there`` for ``source`` [N, S, H, W]."""
        images: Tensor = self.there(source)
        return images
