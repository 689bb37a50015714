"""Recipes ``dcgan`` and ``lsgan``: batch normalisation in both networks, two losses."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks import ConvolutionalDiscriminator, Discriminator, Shape
from imagemint.training.networks.convolutional import init_dcgan_weights
from imagemint.training.recipes.convolutional import ConvolutionalRecipe


class DcganRecipe(ConvolutionalRecipe):
    """Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs" (2015).

    By the paper's rules: uniform latents of 100, batches of 128, Adam with beta1 at 0.5, strided
    convolutions, batch normalisation, weights from N(0, 0.02). The paper has a learning rate of
    2e-4 for both networks. That of G is five times as high here, as in InfoGAN (2016), whose
    networks have one dense layer more: the distance to real digits is half as large after as many
    images, see docs/notes/recipes-against-papers.md.

    D mirrors G, as in the paper: as many channels at each size, and 0.43 million weights beside
    G's 0.79 million, 0.63 million of them in its dense layer. The default is ten epochs.
    """

    name: ClassVar[str] = "dcgan"
    latent: ClassVar[Literal["normal", "uniform"]] = "uniform"

    batch_size: int = Field(default=128, ge=2)
    """Images in one step of either network."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=2e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    z_dim: int = Field(default=100, ge=1)
    """Length of a latent."""
    discriminator_channels: int = Field(default=64, ge=1)
    """Channels of the discriminator at half the size; every halving of the size doubles them."""
    objective: Literal["non-saturating", "saturating", "least-squares"] = "non-saturating"
    """Adversarial loss."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a DCGAN generator with the paper's initial weights."""
        return init_dcgan_weights(super().make_generator(shape))

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator with the paper's initial weights."""
        discriminator = ConvolutionalDiscriminator(shape, base_channels=self.discriminator_channels)
        return init_dcgan_weights(discriminator)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the adversarial loss alone."""
        adversarial = ADVERSARIAL_LOSSES[self.objective]
        return GanLoss(adversarial, augmentation=self.make_augmentation())


class LsganRecipe(DcganRecipe):
    """Mao et al., "Least Squares Generative Adversarial Networks" (2016), on DCGAN's networks."""

    name: ClassVar[str] = "lsgan"

    objective: Literal["non-saturating", "saturating", "least-squares"] = "least-squares"
    """Adversarial loss."""
