"""Translators that draw a change of their source: correct it, fill it, or continue it."""

import torch
from torch import Tensor, nn


class Corrector(nn.Module):
    """Adds the output of a network to the source, like DeblurGAN (Kupyn et al., 2018).

    Args:
        network: ``network(source)`` [N, C, H, W] for sources of the same shape.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, source: Tensor) -> Tensor:
        """Returns images [N, C, H, W] near [-1, 1] of ``source`` [N, C, H, W] in [-1, 1]."""
        images: Tensor = source + self.network(source)
        return images


class HoleFiller(nn.Module):
    """Fills the pixels that the mask hides, and copies the others.

    Pixels below the mask are hidden from the network, whatever the caller sends.

    Args:
        network: ``network(source)`` [N, C, H, W] for sources [N, C + 1, H, W].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, source: Tensor) -> Tensor:
        """Returns images [N, C, H, W] of ``source`` [N, C + 1, H, W], all in [-1, 1].

        The last channel is the mask: above 0 it hides, below it does not.
        """
        mask = (source[:, -1:] > 0).to(source.dtype)
        image = source[:, :-1] * (1 - mask)
        output: Tensor = self.network(torch.cat([image, 2 * mask - 1], dim=1))
        return image + output * mask


class NextFrame(nn.Module):
    """Draws the next frame as a change of the last one.

    A gate for each pixel mixes the last frame with the output of the network, like the mask of the
    foreground in Vondrick et al., "Generating Videos with Scene Dynamics" (2016), so that still
    parts stay unchanged.

    Args:
        network: returns [N, C + 1, H, W] in [-1, 1]: a frame and its gate.
        channels: C, of a frame.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network = network
        self.channels = channels

    def forward(self, source: Tensor) -> Tensor:
        """Returns frames [N, C, H, W] of ``source`` [N, F * C, H, W], all in [-1, 1]."""
        output = self.network(source)
        gate = (output[:, -1:] + 1) / 2
        images: Tensor = gate * output[:, :-1] + (1 - gate) * source[:, -self.channels :]
        return images
