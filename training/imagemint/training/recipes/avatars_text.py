"""Recipe ``avatars-text``: cartoon people at 64x64, by caption."""

from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from imagemint.engine.captions import Captions
from imagemint.training.datasets import LabelledImages, avatars
from imagemint.training.datasets.avatar_wordings import CAPTIONS
from imagemint.training.datasets.caption_draws import CaptionDraws
from imagemint.training.errors import DatasetError
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.captions import CaptionReading, WrongCaption
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import Reconstruction
from imagemint.training.networks import (
    AttributeDiscriminator,
    AttributeGenerator,
    CaptionGenerator,
    Discriminator,
    Shape,
)
from imagemint.training.networks.attributes import Frequencies
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class AvatarsTextRecipe(ZeroCentredOptions, Recipe):
    """People that fit a caption: a reader of captions before the generator of `avatars`.

    The reader learns from captions of the people in the batch, worded anew in each step; the other
    networks get attributes in training, as in `avatars`. D learns from real images with wrong
    captions too, after Reed et al., "Generative Adversarial Text to Image Synthesis" (2016).
    """

    name: ClassVar[str] = "avatars-text"
    dataset: ClassVar[str] = "avatars64"
    condition: ClassVar[Literal["none", "class", "code", "caption"]] = "caption"
    recalibration_batches: ClassVar[int] = 8
    """As many pixels as 40 batches of digits have; those would take a minute of a CPU core."""

    images: int = Field(default=105_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    z_dim: int = Field(default=32, ge=12)
    """Length of a latent; its first elements decide what a caption leaves open."""
    c_dim: int = Field(default=8, ge=1)
    """Length of each embedding, of the head and of each attribute."""
    generator_channels: int = Field(default=256, ge=4, multiple_of=4)
    """Channels of the generator at 4x4 and 8x8; every further doubling halves them."""
    discriminator_channels: int = Field(default=32, ge=1)
    """Channels of the discriminator at half the size; every halving doubles them."""
    wrong_caption_weight: float = Field(default=0.5, ge=0)
    """Weight, in D's loss, of real images with wrong captions; at 0 there are none."""
    reading_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the reader of captions."""
    captions_per_image: int = Field(default=8, ge=1)
    """Captions of each image of a batch that the reader learns from."""
    reconstruction_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean absolute difference between a generated image and the real one with the
    same attributes, as in pix2pix (Isola et al., 2016)."""
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
        """Returns class and attributes int64 [N, 1 + A].

        Raises:
            DatasetError: the data have other attributes than `avatars64`.
        """
        known = {attribute.name: attribute.codes for attribute in data.attributes}
        if not known.keys() >= avatars.VALUES.keys():
            raise DatasetError(f"{self.name} needs the attributes of avatars64, not {data.name}")
        return np.stack([data.labels, *(known[name] for name in avatars.VALUES)], axis=1)

    def get_captions(self) -> Captions:
        """Returns the captions of people that G understands."""
        return CAPTIONS

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a generator that reads captions."""
        return CaptionGenerator(
            self.z_dim,
            len(avatars.STYLES),
            words=len(CAPTIONS.vocabulary),
            frequencies=compute_people_frequencies(),
            painter=partial(self.make_painter, shape=make_head_shape(shape)),
        )

    def make_painter(self, z_dim: int, shape: Shape) -> nn.Module:
        """Returns the generator of people whose attributes are known.

        Args:
            z_dim: length of its latents.
            shape: shape of the images; its classes are the heads.
        """
        return AttributeGenerator(
            z_dim,
            shape,
            c_dim=self.c_dim,
            base_channels=self.generator_channels,
            frequencies=compute_people_frequencies(),
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a projection discriminator without normalisation."""
        return AttributeDiscriminator(
            make_head_shape(shape),
            base_channels=self.discriminator_channels,
            values=[table.shape[1] for table in compute_people_frequencies().values()],
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the adversarial loss, penalties, wrong captions, reconstruction and reading."""
        adversarial = ADVERSARIAL_LOSSES["relativistic"]
        return GanLoss(
            adversarial,
            terms_D=[
                self.make_penalties(),
                WrongCaption(self.wrong_caption_weight, adversarial),
            ],
            terms_G=[
                Reconstruction(self.reconstruction_weight),
                CaptionReading(self.reading_weight, CaptionDraws(self.captions_per_image)),
            ],
            augmentation=self.make_augmentation(),
        )


def make_head_shape(shape: Shape) -> Shape:
    """Returns the shape of images whose classes are the heads of people."""
    return Shape(len(avatars.STYLES), shape.image_size, shape.image_channels)


def compute_people_frequencies() -> Frequencies:
    """Returns how often each head has each value of each attribute."""
    return {name: avatars.compute_frequencies(name) for name in avatars.VALUES}
