"""Recipe ``msg``: multi-scale gradients."""

from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks import (
    Discriminator,
    MultiScaleDiscriminator,
    MultiScaleGenerator,
    Pyramid,
    Shape,
)
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class MsgRecipe(ZeroCentredOptions, Recipe):
    """Karnewar & Wang, "MSG-GAN: Multi-Scale Gradients for Generative Adversarial Networks" (2019).

    D sees the pictures that G draws at all of its sizes. R1 and R2 are taken by each picture at its
    own size, as the paper takes its penalty by each input of D, and augmentation distorts all
    pictures of an image as one. These things are not the paper's: relativistic pairing with both
    penalties, which converges where its losses need tuning; the sum of the penalties of all sizes,
    where the authors take the mean; one convolution at each size where they have two; weights that
    are not equalised; and tanh, which bounds the images.
    """

    name: ClassVar[str] = "msg"
    values_before: ClassVar[dict[str, Any]] = {"minibatch_deviation": False}

    minibatch_deviation: bool = True
    """Whether the variation within the batch is one more feature of D, as in the paper."""
    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at the smallest size; every doubling of the size halves them."""
    discriminator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the discriminator at the smallest size."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a generator that draws at every size."""
        return MultiScaleGenerator(self.z_dim, shape, base_channels=self.generator_channels)

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a discriminator that sees every size."""
        return MultiScaleDiscriminator(
            shape, base_channels=self.discriminator_channels, deviation=self.minibatch_deviation
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns relativistic pairing with both penalties on pyramids of images."""
        return GanLoss(
            ADVERSARIAL_LOSSES["relativistic"],
            terms_D=[self.make_penalties()],
            view=Pyramid.of(shape),
            augmentation=self.make_augmentation(),
        )
