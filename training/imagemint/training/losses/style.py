"""The losses of style transfer: Gram matrices and total variation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imagemint.training.losses.perceptual import PerceptualLoss, find_feature_layers
from imagemint.training.losses.translation import Term, Translated

_EPSILON = 1e-12
_TILE = 4  # least side of a tile, in places of a feature map


@dataclass(frozen=True)
class StyleOptions:
    """StyleOptions of the losses.

    Attributes:
        content: weight of the difference from the content.
        style: weight of the difference of Gram matrices.
        variation: weight of the total variation.
        tiles: tiles in each direction that have Gram matrices of their own.
    """

    content: float = 1.0
    style: float = 10.0
    variation: float = 1.0
    tiles: int = 4


class GramLoss(PerceptualLoss):
    """Gives the result the style of one picture: the same correlations of features.

    Gatys et al., "Image Style Transfer Using Convolutional Neural Networks" (2016), equation 5, who
    use VGG; here the features are those of a trained classifier of our own. Each layer is divided
    by the mean square of the style's Gram matrix, so that all layers count alike. The matrices of
    the style are buffers, which checkpoints hold.

    A Gram matrix does not say where in an image the style is, so that a network may paint one strip
    and leave the rest as it was. With ``tiles`` above 1 each tile of the image has a Gram matrix of
    its own, which is compared with that of the whole style: the guided Gram matrices of Gatys et
    al., "Controlling Perceptual Factors in Neural Style Transfer" (2017), equation 2, with a grid
    for a guide.

    Args:
        weight: weight of the sum over the layers.
        judge: layers of the classifier in order, in evaluation mode.
        layers: indices of the layers whose outputs are compared.
        style: the picture [1, C, H, W] in [-1, 1], of any size.
        tiles: tiles of an image in each direction; fewer for maps where they would have less than
            four places a side.
        after: number of images seen before it counts.
    """

    def __init__(
        self,
        weight: float,
        judge: nn.Sequential,
        layers: Sequence[int],
        style: Tensor,
        *,
        tiles: int = 1,
        after: int = 0,
    ) -> None:
        super().__init__(weight, judge, layers, after=after)
        self.tiles = tiles
        with torch.no_grad():
            for number, features in enumerate(self.extract_features(style)):
                self.register_buffer(f"gram_{number}", gram_matrix(features))

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the difference as ``style``."""
        targets = list(self.buffers())
        parts = [
            (gram_matrices(features, self.tiles) - gram).square().mean()
            / gram.square().mean().clamp_min(_EPSILON)
            for features, gram in zip(self.extract_features(batch.fake), targets, strict=True)
        ]
        return {"style": torch.stack(parts).mean()}


class TotalVariation(Term):
    """Penalises differences of adjacent pixels, which removes noise.

    Rudin et al. (1992) in the squared form of Johnson et al., "Perceptual Losses for Real-Time
    Style Transfer and Super-Resolution" (2016), section 3.2, as a mean over the pixels.
    """

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the mean squared difference as ``total_variation``; values are in [-1, 1]."""
        down, across = (batch.fake.diff(dim=axis).square().mean() for axis in (2, 3))
        return {"total_variation": down + across}


def gram_matrix(features: Tensor) -> Tensor:
    """Returns the mean products of features [N, c, h, w] over all places: [N, c, c]."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def gram_matrices(features: Tensor, tiles: int) -> Tensor:
    """Returns the Gram matrix of each tile of features [N, c, h, w]: [T, N, c, c].

    T is ``tiles`` squared, or less for small maps, see `GramLoss`.
    """
    down, across = (min(tiles, max(side // _TILE, 1)) for side in features.shape[2:])
    return torch.stack(
        [
            gram_matrix(tile)
            for row in features.tensor_split(down, dim=2)
            for tile in row.tensor_split(across, dim=3)
        ]
    )


def make_style_terms(
    judge: nn.Sequential,
    shape: tuple[int, int, int],
    style: Tensor,
    options: StyleOptions,
) -> list[Term]:
    """Returns the three losses of style transfer.

    The content is compared in the deepest maps of the classifier (a `PerceptualLoss`), the style in
    the last maps of every size.

    Args:
        judge: layers of the classifier in order, in evaluation mode.
        shape: height, width and channels of the images it was trained on.
        style: the picture [1, C, H, W] in [-1, 1].
        options: weights of the losses, and tiles.
    """
    layers = find_feature_layers(judge, shape)
    return [
        PerceptualLoss(options.content, judge, layers[-1:]),
        GramLoss(options.style, judge, layers, style, tiles=options.tiles),
        TotalVariation(options.variation),
    ]
