"""Recipe ``stacked-mnist``: the benchmark of mode coverage, three digits as one RGB image."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks import (
    ConditionalGenerator,
    Discriminator,
    ProjectionDiscriminator,
    Shape,
)
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class StackedMnistRecipe(ZeroCentredOptions, Recipe):
    """A thousand modes without a label: relativistic pairing, lazy R1 and R2.

    The benchmark is that of Metz et al., "Unrolled Generative Adversarial Networks" (2016), and of
    PacGAN (Lin et al., 2017). The method is that of Huang et al., "The GAN is dead; long live the
    GAN!" (2024): a generated image is compared with a real one, so that leaving out a mode has a
    cost, and both gradient penalties make training converge. The networks are those of the recipe
    ``mnist``, which two CPU cores can train: residual ones cost several times as much.
    """

    name: ClassVar[str] = "stacked-mnist"
    dataset: ClassVar[str] = "stacked-mnist"

    images: int = Field(default=4_000_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    z_dim: int = Field(default=128, ge=1)
    """Length of a latent."""
    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at 7x7."""
    discriminator_channels: int = Field(default=48, ge=1)
    """Channels of the discriminator at 14x14."""
    burn_in: int = Field(default=300_000, ge=0)
    """Images over which gamma goes from the one to the other along a cosine, as in R3GAN."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""
    decay_share: float = Field(default=0.4, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a DCGAN generator without a condition."""
        return ConditionalGenerator(
            self.z_dim,
            0,
            c_dim=0,
            base_channels=self.generator_channels,
            image_channels=shape.image_channels,
            image_size=shape.image_size,
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a convolutional discriminator without normalisation."""
        return ProjectionDiscriminator(
            0,
            base_channels=self.discriminator_channels,
            image_channels=shape.image_channels,
            image_size=shape.image_size,
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns relativistic pairing with both penalties."""
        return GanLoss(
            ADVERSARIAL_LOSSES["relativistic"],
            terms_D=[self.make_penalties()],
            augmentation=self.make_augmentation(),
        )
