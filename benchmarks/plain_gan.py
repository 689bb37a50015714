"""The vanilla GAN as a textbook lists it: plain PyTorch, independent of imagemint's training code.

`training.py` compares its speed with that of the recipe vanilla-mnist, `listing.py` its results.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

Z_DIM = 128
BATCH_SIZE = 512
LEARNING_RATE = 2e-4


class PlainDigits(Dataset[Tensor]):
    """Digits as Pillow images, each converted to a tensor on access."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        picture = Image.fromarray(self._images[index, :, :, 0])
        tensor = torch.from_numpy(np.asarray(picture).copy()).float().div(255).unsqueeze(0)
        return (tensor - 0.5) / 0.5


def make_generator() -> nn.Sequential:
    """Returns the generator of the plain script."""
    return nn.Sequential(
        *(nn.Linear(Z_DIM, 256), nn.LeakyReLU(0.2)),
        *(nn.Linear(256, 512), nn.LeakyReLU(0.2)),
        *(nn.Linear(512, 1024), nn.LeakyReLU(0.2)),
        *(nn.Linear(1024, 784), nn.Tanh()),
    )


def make_discriminator() -> nn.Sequential:
    """Returns the discriminator of the plain script."""
    return nn.Sequential(
        *(nn.Linear(784, 1024), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(1024, 512), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(256, 1), nn.Sigmoid()),
    )


class PlainGan:
    """Both networks and their optimisers, and the listing's loop.

    The weights are initialised by PyTorch's defaults with the given seed.
    """

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.G, self.D = make_generator(), make_discriminator()
        self.opt_G = torch.optim.Adam(self.G.parameters(), lr=LEARNING_RATE)
        self.opt_D = torch.optim.Adam(self.D.parameters(), lr=LEARNING_RATE)

    def train(self, batches: Iterable[Tensor]) -> Iterator[tuple[int, float, float]]:
        """Trains on batches of images [N, 1, 28, 28] in [-1, 1].

        Yields, after each step, the number of images and the losses of D and G.
        """
        criterion = nn.BCELoss()
        for batch in batches:
            count = len(batch)
            real = batch.reshape(count, -1)
            ones, zeros = torch.ones(count, 1), torch.zeros(count, 1)
            fake = self.G(torch.randn(count, Z_DIM)).detach()
            self.opt_D.zero_grad()
            loss_D = criterion(self.D(real), ones) + criterion(self.D(fake), zeros)
            loss_D.backward()
            self.opt_D.step()
            self.opt_G.zero_grad()
            loss_G = criterion(self.D(self.G(torch.randn(count, Z_DIM))), ones)
            loss_G.backward()
            self.opt_G.step()
            yield count, loss_D.item(), loss_G.item()
