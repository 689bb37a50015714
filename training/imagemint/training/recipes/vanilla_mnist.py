"""Recipe ``vanilla-mnist``: the first GAN, in the setting of the lecture."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks import Discriminator, MlpDiscriminator, MlpGenerator, Shape
from imagemint.training.recipes.recipe import Recipe


class VanillaMnistRecipe(Recipe):
    """Dense networks and binary cross-entropy: Goodfellow et al., "GAN" (2014).

    The networks are those of the lecture; the paper has maxout in D, and momentum. The lecture's
    numbers: latents of 128, batches of 512, Adam at 2e-4, k steps of D, 200 epochs, a
    grid of samples after each.

    The run goes through a collapse: the plain listing of the lecture, and this recipe, draw one
    shape until epoch 16, two or three digits at epoch 24, and eight to ten at epoch 40
    (``benchmarks/results/listing.json``). Mode collapse is therefore judged from epoch 30 on, and
    ends a run only if it lasts 30 epochs more.

    Given the same noise for both networks and no dropout, the weights after a step equal those of
    the listing. Four things differ on purpose:

    - G's loss uses the images that D has just seen; the listing draws new noise for G. Both are
      samples of the same distribution, and it saves a forward pass (algorithm 1 of the paper draws
      anew; DCGAN's authors reuse).
    - Grids and checkpoints hold the moving average of G, which is what the exporter takes. With
      ``--ema-half-life 1`` they hold G itself.
    - A grid shows 10 x 10 samples of fixed latents, as that of every recipe, not 8 x 8 fresh ones.
    - Batches are always full: the last of an epoch is completed from the next epoch, so an epoch of
      60,000 images is 117.2 steps and not 118.
    """

    name: ClassVar[str] = "vanilla-mnist"
    snapshots_every: ClassVar[int] = 60_000
    judged_after: ClassVar[int] = 30 * 60_000
    recovers_within: ClassVar[int] = 30 * 60_000

    images: int = Field(default=200 * 60_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=512, ge=2)
    """Images in one step of either network."""
    z_dim: int = Field(default=128, ge=1)
    """Length of a latent."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the first moment."""
    objective: Literal["non-saturating", "saturating"] = "non-saturating"
    """Loss of G: that which the paper trained, or the minimax one that it begins with."""
    width: int = Field(default=256, ge=4, multiple_of=4)
    """Features of the narrowest hidden layer of either network; the widest has four times them."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of D's features dropped in training."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns dense layers of width, 2 width and 4 width."""
        unconditional = Shape(0, shape.image_size, shape.image_channels)
        return MlpGenerator(self.z_dim, unconditional, width=self.width)

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns dense layers of 4 width, 2 width and width."""
        unconditional = Shape(0, shape.image_size, shape.image_channels)
        return MlpDiscriminator(unconditional, width=4 * self.width, dropout=self.dropout)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the adversarial loss alone."""
        adversarial = ADVERSARIAL_LOSSES[self.objective]
        return GanLoss(adversarial, augmentation=self.make_augmentation())
