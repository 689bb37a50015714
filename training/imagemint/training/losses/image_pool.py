"""A pool of generated images from earlier steps."""

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """Shows the discriminator earlier generated images besides the newest ones.

    Shrivastava et al., "Learning from Simulated and Unsupervised Images through Adversarial
    Training" (2016), as CycleGAN uses it: half of the time an image is swapped for one that was
    generated earlier. The images are buffers, so that checkpoints hold them.

    Args:
        size: number of kept images; 0 to pass images unchanged.
        shape: channels, height and width of an image.
    """

    images: Tensor
    filled: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns as many images [N, C, H, W], each of ``images`` or of the pool, and keeps some.

        Nothing flows back to ``images``.

        Randomness comes from PyTorch's generator of the CPU, which the loop seeds by position.
        """
        size = len(self.images)
        if not size:
            return images.detach()
        selected = images.detach().clone()
        swaps, places = torch.rand(len(images)), torch.randint(size, (len(images),))
        for row, image in enumerate(images.detach()):
            if int(self.filled) < size:
                self.images[int(self.filled)] = image
                self.filled += 1
            elif swaps[row] < 0.5:  # noqa: PLR2004 - half of the time
                selected[row] = self.images[places[row]]
                self.images[places[row]] = image
        return selected
