"""Recipe ``mnist``: a class-conditional convolutional GAN at 28x28."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import Mismatch
from imagemint.training.networks import (
    ConditionalGenerator,
    Discriminator,
    ProjectionDiscriminator,
    Shape,
)
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class MnistRecipe(ZeroCentredOptions, Recipe):
    """Class-conditional digits: projection, relativistic pairing, lazy R1 and R2."""

    name: ClassVar[str] = "mnist"
    condition: ClassVar[Literal["none", "class", "code"]] = "class"

    c_dim: int = Field(default=8, ge=1)
    """Length of the class embedding. If it is long, G ignores the latent: see
    `ConvolutionalRecipe`."""
    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at 7x7."""
    discriminator_channels: int = Field(default=48, ge=1)
    """Channels of the discriminator at 14x14."""
    objective: Literal["relativistic", "hinge"] = "relativistic"
    """Adversarial loss."""
    mismatch_weight: float = Field(default=0.1, ge=0)
    """Weight of a further loss of D: real images with their class against the same with another
    (Reed et al., "Generative Adversarial Text to Image Synthesis", 2016), so that G has to follow
    the class. It reuses the features of the real images, so it costs little."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""
    decay_share: float = Field(default=0.4, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a DCGAN generator with a class embedding."""
        return ConditionalGenerator(
            self.z_dim,
            shape.num_classes,
            c_dim=self.c_dim,
            base_channels=self.generator_channels,
            image_channels=shape.image_channels,
            image_size=shape.image_size,
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a projection discriminator without normalisation."""
        return ProjectionDiscriminator(
            shape.num_classes,
            base_channels=self.discriminator_channels,
            image_channels=shape.image_channels,
            image_size=shape.image_size,
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the adversarial loss with the mismatch loss and both penalties."""
        adversarial = ADVERSARIAL_LOSSES[self.objective]
        # With a single class there is no wrong class.
        weight = self.mismatch_weight if shape.num_classes > 1 else 0.0
        mismatch = Mismatch(weight, adversarial, shape.num_classes)
        return GanLoss(
            adversarial,
            terms_D=[mismatch, self.make_penalties()],
            augmentation=self.make_augmentation(),
        )
