"""The interfaces of networks for the loop."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The shape of the images and the number of classes that networks are built for.

    Attributes:
        num_classes: number of classes K of the data, or of the condition if only G is built.
        image_size: height and width in pixels.
        image_channels: 1 for gray, 3 for RGB.
    """

    num_classes: int
    image_size: int
    image_channels: int


class Discriminator(nn.Module):
    """A discriminator: features of an image, and a logit from them.

    The two steps are separate because losses use the features for more than the logit: for another
    class, the class itself, a code, or their mean.

    Attributes:
        heads: further outputs from the features, by name, such as ``classes``: [N, K].
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()

    def phi(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Returns the features [N, F] of images ``x`` [N, C, H, W] with condition ``c`` [N]."""
        raise NotImplementedError

    def logits(self, phi: Tensor, c: Tensor | None) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` [N, F] with ``c`` [N].

        A discriminator that makes K judgements of an image returns [N, K].
        """
        raise NotImplementedError

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Returns one logit [N] for each of the images ``x`` [N, C, H, W] with ``c`` [N]."""
        return self.logits(self.phi(x, c), c)


def draw(G: nn.Module, z: Tensor, c: Tensor | None) -> Tensor:
    """Returns images [N, C, H, W] for ``z`` [N, z_dim], and ``c`` [N] unless it is None.

    An unconditional generator is therefore exported without an input for the class.
    """
    images: Tensor = G(z) if c is None else G(z, c)
    return images
