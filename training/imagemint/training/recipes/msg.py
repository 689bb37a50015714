"""Recipe ``msg``: multi-scale gradients."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions

if TYPE_CHECKING:
    from torch import nn

    from imagemint.training.game import Game
    from imagemint.training.networks import Discriminator, Shape


class MsgRecipe(ZeroCentredOptions, Recipe):
    """Karnewar & Wang, "MSG-GAN: Multi-Scale Gradients for Generative Adversarial Networks" (2019).

    D sees the pictures that G draws at all of its sizes; here with relativistic pairing and both
    penalties. It stands where progressive growing would.
    """

    name: ClassVar[str] = "msg"
    summary: ClassVar[str] = "digits by multi-scale gradients"

    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at the smallest size; every doubling of the size halves them."""
    discriminator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the discriminator at the smallest size."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Step size of the generator's optimiser, and of the discriminator's if that has none."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""

    def generator(self, shape: "Shape") -> "nn.Module":
        """Returns a generator that draws at every size."""
        from imagemint.training import parts

        return parts.MultiScaleGenerator(self.z_dim, shape, base_channels=self.generator_channels)

    def discriminator(self, shape: "Shape") -> "Discriminator":
        """Returns a discriminator that sees every size."""
        from imagemint.training import parts

        return parts.MultiScaleDiscriminator(shape, base_channels=self.discriminator_channels)

    def game(self, G: "nn.Module", D: "Discriminator", shape: "Shape") -> "Game":
        """Returns relativistic pairing with both penalties on pyramids of images."""
        del G, D
        from imagemint.training import parts

        return parts.Game(
            parts.OBJECTIVES["relativistic"],
            terms_D=[parts.zero_centred_penalties(self)],
            view=parts.pyramid_of(shape),
            augmentation=parts.augmentation(self),
        )
