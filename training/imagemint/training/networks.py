"""Networks: the convolutional generator and projection discriminator at 28x28.

Letters used in the mathematics: ``z`` latent, ``y`` integer class, ``c`` class embedding,
``x`` image in [-1, 1] as float32 NCHW, ``G`` generator, ``D`` discriminator.
"""

import torch
from torch import Tensor, nn


class ConditionalGenerator(nn.Module):
    """DCGAN generator conditioned by concatenating a class embedding to the latent.

    The trunk follows Radford et al., "Unsupervised Representation Learning with Deep Convolutional
    Generative Adversarial Networks" (2015): transposed convolutions of stride 2, batch
    normalisation, ReLU, tanh. The condition enters as in Mirza & Osindero, "Conditional Generative
    Adversarial Nets" (2014). Batch normalisation costs nothing once exported: in evaluation mode
    it is affine, and the exporter folds it into the neighbouring convolution.

    Args:
        z_dim: length of a latent.
        num_classes: number of classes K.
        c_dim: length of the learned class embedding.
        base_channels: channels at 7x7; every doubling of the resolution halves them.
        image_channels: 1 for gray, 3 for RGB.
    """

    def __init__(
        self, z_dim: int, num_classes: int, *, c_dim: int, base_channels: int, image_channels: int
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.num_classes = num_classes
        self.image_channels = image_channels
        self.image_size = 28
        wide, middle, narrow = base_channels, base_channels // 2, base_channels // 4
        self.embed = nn.Embedding(num_classes, c_dim)
        self.project = nn.Linear(z_dim + c_dim, wide * 7 * 7, bias=False)
        self.trunk = nn.Sequential(
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.ConvTranspose2d(wide, middle, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.ConvTranspose2d(middle, narrow, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, image_channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Returns images [N, C, 28, 28] in [-1, 1] for ``z`` [N, z_dim] and ``y`` int64 [N]."""
        h = self.project(torch.cat([z, self.embed(y)], dim=1))
        images: Tensor = self.trunk(h.unflatten(1, (-1, 7, 7)))
        return images


class ProjectionDiscriminator(nn.Module):
    """Plain convolutional discriminator with a projection head, without normalisation.

    ``D(x, y) = w . phi(x) + embed(y) . phi(x)`` after Miyato & Koyama, "cGANs with Projection
    Discriminator" (2018). No normalisation layer, because the gradient penalties that stabilise it
    are per sample, and batch statistics would tie samples together.

    Args:
        num_classes: number of classes K.
        base_channels: channels at 14x14; every halving of the resolution doubles them.
        image_channels: 1 for gray, 3 for RGB.
    """

    def __init__(self, num_classes: int, *, base_channels: int, image_channels: int) -> None:
        super().__init__()
        narrow, middle, wide = base_channels, 2 * base_channels, 4 * base_channels
        self.features = nn.Sequential(
            nn.Conv2d(image_channels, narrow, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, middle, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(middle, wide, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.score = nn.Linear(wide * 4 * 4, 1)
        self.embed = nn.Embedding(num_classes, wide * 4 * 4)
        # At zero the projection starts unconditional and grows only as the data asks for it; the
        # default N(0, 1) over 2,048 features would drown the score in noise for the first epochs.
        nn.init.zeros_(self.embed.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns one logit for each of ``x`` [N, C, 28, 28] with ``y`` int64 [N]: [N]."""
        return self.logits(self.features(x), y)

    def logits(self, phi: Tensor, y: Tensor) -> Tensor:
        """Returns one logit [N] for each of the features ``phi`` of images with ``y`` int64 [N]."""
        logits: Tensor = self.score(phi).squeeze(1) + (self.embed(y) * phi).sum(dim=1)
        return logits
