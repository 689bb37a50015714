"""Recipe ``avatars``: cartoon people at 64x64, by the shape of their heads."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from imagemint.training.datasets import LabelledImages, avatars
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import Reconstruction
from imagemint.training.networks import (
    AttributeDiscriminator,
    AttributeGenerator,
    Discriminator,
    Shape,
)
from imagemint.training.networks.attributes import Frequencies
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class AvatarsRecipe(ZeroCentredOptions, Recipe):
    """Class-conditional people. Training gives the attributes; later z decides them.

    After Jin et al., "Towards the Automatic Anime Characters Creation with Generative Adversarial
    Networks" (2017), who condition on attributes, with the relativistic pairing and the penalties
    of R3GAN (Huang et al., 2024): both images of a pair have the same attributes.
    """

    name: ClassVar[str] = "avatars"
    dataset: ClassVar[str] = "avatars64"
    condition: ClassVar[Literal["none", "class", "code"]] = "class"
    recalibration_batches: ClassVar[int] = 8
    """As many pixels as 40 batches of digits have; those would take a minute of a CPU core."""

    images: int = Field(default=112_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    z_dim: int = Field(default=32, ge=11)
    """Length of a latent; its first elements decide the attributes, one element for each."""
    attributes: Literal["told", "hidden"] = "told"
    """Whether the networks get attributes besides the class, if the data has those of `avatars64`.
    With `hidden` they do not, and the latent decides everything but the class."""
    conditioning: Literal["scales", "input"] = "scales"
    """How the generator gets them: by scales and biases at every normalisation, or at its input."""
    c_dim: int = Field(default=8, ge=1)
    """Length of each embedding, of the class and of each attribute."""
    generator_channels: int = Field(default=256, ge=4, multiple_of=4)
    """Channels of the generator at 4x4 and 8x8; every further doubling halves them."""
    discriminator_channels: int = Field(default=32, ge=1)
    """Channels of the discriminator at half the size; every halving doubles them."""
    objective: Literal["relativistic", "hinge"] = "relativistic"
    """Adversarial loss."""
    reconstruction_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean absolute difference between a generated image and the real one with the
    same attributes, as in pix2pix (Isola et al., "Image-to-Image Translation with Conditional
    Adversarial Networks", 2016). It counts only if the networks get attributes."""
    batch_size: int = Field(default=32, ge=2)
    """Images in one step of either network."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""
    decay_share: float = Field(default=0.4, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""

    def select_network_labels(self, data: LabelledImages) -> NDArray[np.int64]:
        """Returns class and attributes int64 [N, 1 + A], or classes [N] where these are all."""
        known = {attribute.name: attribute.codes for attribute in data.attributes}
        if self.attributes == "hidden" or not known.keys() >= avatars.VALUES.keys():
            return data.labels
        return np.stack([data.labels, *(known[name] for name in avatars.VALUES)], axis=1)

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a generator that upsamples by plain convolutions."""
        return AttributeGenerator(
            self.z_dim,
            shape,
            c_dim=self.c_dim,
            base_channels=self.generator_channels,
            frequencies=self._compute_frequencies(shape),
            scales=self.conditioning == "scales",
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a projection discriminator without normalisation."""
        return AttributeDiscriminator(
            shape,
            base_channels=self.discriminator_channels,
            values=[table.shape[1] for table in self._compute_frequencies(shape).values()],
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the adversarial loss, both penalties, and the reconstruction if it counts."""
        return GanLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms_D=[self.make_penalties()],
            terms_G=[Reconstruction(self.reconstruction_weight)],
            augmentation=self.make_augmentation(),
        )

    def _compute_frequencies(self, shape: Shape) -> Frequencies:
        """Frequencies of the attributes, where the classes can be those of `avatars64`."""
        if self.attributes == "hidden" or shape.num_classes != len(avatars.STYLES):
            return {}
        return {name: avatars.compute_frequencies(name) for name in avatars.VALUES}
