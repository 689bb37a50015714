"""Recipe ``progressive``: networks that grow while they train."""

from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import DatasetError
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import LogitDrift
from imagemint.training.networks import (
    Discriminator,
    GrowingDiscriminator,
    GrowingGenerator,
    Grown,
    Shape,
    compute_level,
    count_growing_images,
)
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class ProgressiveRecipe(ZeroCentredOptions, Recipe):
    """Karras et al., "Progressive Growing of GANs" (2017).

    Digits of 7 pixels first, then of 14 and 28, each size faded in over as many images as it is
    trained for then; pixel normalisation in G, minibatch deviation in D, and the paper's term
    against the drift of D's logits.

    Some things are not the paper's. Relativistic pairing with R1 and R2 stands for WGAN-GP, as in
    the other recipes of this family. Tanh bounds the images. Weights are not equalised. The
    networks are shallower, with one convolution at each size and no hidden dense layer. Adam keeps
    its moments when a size begins, where the authors reset them.

    Its successors are ``msg``, which trains all sizes at once, and ``style``.
    """

    name: ClassVar[str] = "progressive"
    values_before: ClassVar[dict[str, Any]] = {"drift_weight": 0.0, "bounded": False}

    stage_images: int = Field(default=60_000, ge=1)
    """Images for which a size is faded in, and again for which it is trained before the next."""
    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at the smallest size; every doubling of the size halves them."""
    discriminator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the discriminator at the smallest size."""
    bounded: bool = True
    """Whether tanh bounds the images. See docs/notes/recipes-against-papers.md for what it
    changes."""
    drift_weight: float = Field(default=1e-3, ge=0)
    """Weight of the squared logits of real images in D's loss, which keeps them near 0."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""

    def find_warnings(self, data: LabelledImages) -> list[str]:
        """Returns a warning if the run ends before the networks draw images of the full size."""
        size = data.images.shape[1]
        try:
            grown = count_growing_images(size, self.stage_images)
        except DatasetError:
            return []  # the run refuses these images with the same error
        if self.images > grown:
            return []
        half = max(self.images * self.stage_images // (2 * grown), 1)
        warning = (
            f"the networks draw {size}x{size} pixels after {grown:,} images, and the run ends after"
            f" {self.images:,}; set more --images, or --stage-images {half} to train this size for"
            " half of the run"
        )
        return [warning]

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a generator at its smallest size."""
        return GrowingGenerator(
            self.z_dim, shape, base_channels=self.generator_channels, bounded=self.bounded
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a discriminator at its smallest size."""
        return GrowingDiscriminator(shape, base_channels=self.discriminator_channels)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns relativistic pairing with both penalties; both networks grow before a step.

        Raises:
            TypeError: the networks do not grow.
        """
        if not (isinstance(G, GrowingGenerator) and isinstance(D, GrowingDiscriminator)):
            raise TypeError(f"{type(G).__name__} and {type(D).__name__} do not grow")
        networks = (G, D)

        def grow(images_seen: int) -> None:
            for network in networks:
                network.level.fill_(compute_level(images_seen, network.levels, self.stage_images))

        return GanLoss(
            ADVERSARIAL_LOSSES["relativistic"],
            terms_D=[self.make_penalties(), LogitDrift(self.drift_weight)],
            view=Grown(D),
            augmentation=self.make_augmentation(),
            before_step=grow,
        )
