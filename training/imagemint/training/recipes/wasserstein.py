"""Recipes ``wgan``, ``wgan-gp`` and ``sngan``: three ways to a Lipschitz discriminator."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import LipschitzPenalty, WeightClipping
from imagemint.training.networks import ConvolutionalDiscriminator, Discriminator, Shape
from imagemint.training.recipes.convolutional import ConvolutionalRecipe

_REFRESHED_EVERY = 500


class WganRecipe(ConvolutionalRecipe):
    """Arjovsky et al., "Wasserstein GAN" (2017): five steps of D, its weights clipped, RMSprop.

    The paper trains both networks at 0.00005, for hundreds of thousands of steps of G. A run of
    this length has some 4,000 of them, so the rates are higher here; see
    docs/notes/recipes-against-papers.md.

    As in the authors' code, D makes a hundred steps before each of G's first 25, so that it
    estimates a distance before G follows it, and again before every 500th.
    """

    name: ClassVar[str] = "wgan"
    values_before: ClassVar[dict[str, Any]] = {"warm_up_steps": 0}

    images: int = Field(default=1_500_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=2e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    optimizer: Literal["adam", "rmsprop"] = "rmsprop"
    """Optimiser of both networks."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment; RMSprop's only one."""
    discriminator_steps: int = Field(default=5, ge=1)
    """Steps of D for one of G, each on fresh images: n_critic."""
    warm_up_steps: int = Field(default=25, ge=0)
    """Number of first G steps before which D makes more steps, as before every 500th. 0: never."""
    warm_up_turns: int = Field(default=100, ge=1)
    """Number of D steps before each of those."""
    clip: float = Field(default=0.01, gt=0)
    """D's weights are clipped to plus and minus this value."""

    def count_discriminator_steps(self, step: int) -> int:
        """Returns the number of D steps before the G step with this index, from 0."""
        more = step < self.warm_up_steps or (self.warm_up_steps and step % _REFRESHED_EVERY == 0)
        return self.warm_up_turns if more else self.discriminator_steps

    def count_discriminator_steps_before(self, step: int) -> int:
        """Returns the number of D steps of all G steps before this one."""
        first = min(step, self.warm_up_steps)
        refreshed = -(-step // _REFRESHED_EVERY) - -(-first // _REFRESHED_EVERY)
        many = first + (refreshed if self.warm_up_steps else 0)
        return many * self.warm_up_turns + (step - many) * self.discriminator_steps

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator."""
        return ConvolutionalDiscriminator(shape, base_channels=self.discriminator_channels)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the Wasserstein loss with clipping."""
        return GanLoss(
            ADVERSARIAL_LOSSES["wasserstein"],
            after_D=WeightClipping(self.clip),
            augmentation=self.make_augmentation(),
        )


class WganGpRecipe(ConvolutionalRecipe):
    """Gulrajani et al., "Improved Training of Wasserstein GANs" (2017): a gradient penalty.

    The paper trains both networks at 0.0001, for 200,000 steps of G. A run of this length has 4,700
    of them, so the rates are higher here; see docs/notes/recipes-against-papers.md.
    """

    name: ClassVar[str] = "wgan-gp"

    images: int = Field(default=1_500_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=4e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the second moment."""
    discriminator_steps: int = Field(default=5, ge=1)
    """Steps of D for one of G, each on fresh images: n_critic."""
    penalty_weight: float = Field(default=10.0, gt=0)
    """Lambda of the gradient penalty."""

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator with layer normalisation, as the penalty is per image."""
        return ConvolutionalDiscriminator(
            shape, base_channels=self.discriminator_channels, norm="layer"
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the Wasserstein loss with the penalty."""
        return GanLoss(
            ADVERSARIAL_LOSSES["wasserstein"],
            terms_D=[LipschitzPenalty(self.penalty_weight)],
            augmentation=self.make_augmentation(),
        )


class SnganRecipe(ConvolutionalRecipe):
    """Miyato et al., "Spectral Normalization for Generative Adversarial Networks" (2018).

    With the hinge loss of Lim & Ye, "Geometric GAN" (2017), and two time scales. G is the quicker
    one, unlike in Heusel et al. (2017): the distance to real digits is less than half after as many
    images, see docs/notes/recipes-against-papers.md.
    """

    name: ClassVar[str] = "sngan"

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the second moment."""
    discriminator_learning_rate: float | None = Field(default=4e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a discriminator whose every layer is spectrally normalised."""
        return ConvolutionalDiscriminator(
            shape, base_channels=self.discriminator_channels, norm="none", spectral=True
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the hinge loss."""
        return GanLoss(ADVERSARIAL_LOSSES["hinge"], augmentation=self.make_augmentation())
