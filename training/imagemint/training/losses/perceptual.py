"""The perceptual loss compares images in the features of a trained network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.losses.translation import Term, Translated


class PerceptualLoss(Term):
    """Mean squared difference in the features of a trained classifier, our own judge.

    Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (2016),
    and Ledig et al. (2016), equation 5, who both use VGG. Each layer is divided by the mean square
    of its features of the targets, so that all layers count alike whatever their scale.

    Args:
        weight: weight of the sum over the layers.
        judge: layers of the classifier in order, in evaluation mode; they are not trained and are
            no part of checkpoints.
        layers: indices of the layers whose outputs are compared.
        after: number of images seen before it counts.

    Raises:
        ValueError: there is no such layer.
    """

    def __init__(
        self, weight: float, judge: nn.Sequential, layers: Sequence[int], *, after: int = 0
    ) -> None:
        super().__init__(weight, after=after)
        if not layers or not 0 <= min(layers) <= max(layers) < len(judge):
            raise ValueError(f"layers are {list(layers)}, but the judge has 0 to {len(judge) - 1}")
        self._layers = frozenset(layers)
        # Not a submodule, because checkpoints do not need it, and it must not be trained.
        network = nn.Sequential(*list(judge)[: max(layers) + 1]).eval()
        self._judge = (network.requires_grad_(requires_grad=False),)

    def extract_features(self, images: Tensor) -> list[Tensor]:
        """Returns the outputs of the compared layers for images [N, C, H, W] in [-1, 1]."""
        found, x = [], images
        for index, layer in enumerate(self._judge[0]):
            x = layer(x)
            if index in self._layers:
                found.append(x)
        return found

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the difference as ``perceptual``."""
        with torch.no_grad():
            known = self.extract_features(batch.target)
        features = self.extract_features(batch.fake)
        parts = [
            F.mse_loss(ours, theirs) / theirs.square().mean().clamp_min(1e-8)
            for ours, theirs in zip(features, known, strict=True)
        ]
        return {"perceptual": torch.stack(parts).mean()}


@torch.no_grad()
def find_feature_layers(judge: nn.Sequential, shape: tuple[int, int, int]) -> list[int]:
    """Returns the last layer at each size of a classifier's maps, except for maps of one pixel.

    Args:
        judge: layers of the classifier in order, in evaluation mode.
        shape: height, width and channels of its images.

    Raises:
        ValueError: it has no maps.
    """
    height, width, channels = shape
    parameter = next(judge.parameters())
    x = torch.zeros(1, channels, height, width, device=parameter.device)
    last: dict[tuple[int, ...], int] = {}
    for index, layer in enumerate(judge):
        x = layer(x)
        if x.ndim != 4 or x.shape[2:].numel() == 1:  # noqa: PLR2004 - a map has four axes
            break
        last[tuple(x.shape[2:])] = index
    if not last:
        raise ValueError("the classifier has no feature maps to compare images in")
    return list(last.values())
