"""Recipe ``r3gan``: the modern baseline."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks import (
    Discriminator,
    ResidualDiscriminator,
    ResidualGenerator,
    Shape,
)
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class R3ganRecipe(ZeroCentredOptions, Recipe):
    """Huang et al., "The GAN is dead; long live the GAN! A Modern Baseline GAN" (2024).

    Residual networks without normalisation, relativistic pairing, and both penalties with weights
    that decrease. For a GPU: on two CPU cores it is several times as slow as ``mnist``.

    The networks are smaller than the authors' for CIFAR-10, which have 768 channels at every size
    and two blocks; here 256 channels halve with each doubling of the size. The authors augment the
    images with a probability that rises to 0.55, let the learning rate fall to a quarter and Adam's
    beta2 rise from 0.9, average G over millions of images, and resample with a filter of [1, 2, 1].
    Here there is no augmentation unless ``--augment ada`` asks for it, the rate falls to zero, the
    average is that of every recipe, and resampling is bilinear. The authors' class embedding has
    64 numbers of a variance of 1 / K, so it is as weak as the 8 numbers here.
    """

    name: ClassVar[str] = "r3gan"
    dataset: ClassVar[str] = "cifar10"
    condition: ClassVar[Literal["none", "class", "code"]] = "class"
    values_before: ClassVar[dict[str, Any]] = {"c_dim": 64}

    images: int = Field(default=5_000_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=512, ge=2)
    """Images in one step of either network."""
    generator_channels: int = Field(default=256, ge=8, multiple_of=8)
    """Channels of the generator at 4x4, which halve with each doubling of the size."""
    discriminator_channels: int = Field(default=256, ge=8, multiple_of=8)
    """Channels of the discriminator at 4x4, which halve with each doubling of the size."""
    c_dim: int = Field(default=8, ge=1)
    """Length of the class embedding. If it is long, G ignores the latent: see
    `ConvolutionalRecipe`."""
    blocks: int = Field(default=1, ge=1)
    """Residual blocks at each size."""
    groups: int = Field(default=1, ge=1)
    """Groups of the 3x3 convolutions; the paper has groups of 16 channels."""
    penalty_weight: float = Field(default=0.05, ge=0)
    """Gamma of the R1 and R2 penalties at the start; they enter the loss as gamma / 2 each. The
    default is for 32x32; the authors have 2 for faces of 64x64, and 150 for those of 256x256."""
    final_penalty_weight: float = Field(default=0.005, ge=0)
    """Gamma once the burn-in is over: smooth at first for stability, sharper later for detail. The
    authors have a tenth of the value at the start."""
    burn_in: int = Field(default=1_000_000, ge=0)
    """Images over which gamma goes from the one to the other along a cosine, as in R3GAN."""
    penalty_interval: int = Field(default=1, ge=1)
    """Steps between two penalties; the paper has them at every step."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""
    decay_share: float = Field(default=0.5, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a residual generator."""
        return ResidualGenerator(
            self.z_dim,
            shape,
            base_channels=self.generator_channels,
            blocks=self.blocks,
            groups=self.groups,
            c_dim=self.c_dim,
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a residual discriminator with a projection head."""
        return ResidualDiscriminator(
            shape,
            base_channels=self.discriminator_channels,
            blocks=self.blocks,
            groups=self.groups,
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns relativistic pairing with both penalties."""
        return GanLoss(
            ADVERSARIAL_LOSSES["relativistic"],
            terms_D=[self.make_penalties()],
            augmentation=self.make_augmentation(),
        )
