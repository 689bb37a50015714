"""Recipe ``stack``: cartoon people by caption, drawn at half the size first."""

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.caption_draws import CaptionDraws
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES, sum_judgements
from imagemint.training.losses.captions import CaptionReading, WrongCaption
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import Reconstruction
from imagemint.training.networks import (
    Discriminator,
    Pyramid,
    Shape,
    StackedDiscriminator,
    StackedGenerator,
)
from imagemint.training.recipes.avatars_text import (
    AvatarsTextRecipe,
    compute_people_frequencies,
    make_head_shape,
)

_SIZES = 2


class StackRecipe(AvatarsTextRecipe):
    """People that fit a caption, at 32x32 first and refined to 64x64 on the caption.

    Zhang et al., "StackGAN++" (2017), behind the reader of captions of `avatars-text`. Each size
    has a discriminator, whose loss has a part with the condition and a part without it; both parts
    and both sizes are added. Everything that the paper does not ask for is that of `avatars-text`:
    relativistic pairing, R1 and R2, wrong captions, reconstruction at either size. Only the 64x64
    image is exported.
    """

    name: ClassVar[str] = "stack"

    generator_channels: int = Field(default=240, ge=4, multiple_of=4)
    """Channels of the first stage at 4x4 and 8x8; every further doubling halves them."""
    refine_channels: int = Field(default=56, ge=1)
    """Channels of the second stage."""
    discriminator_channels: int = Field(default=32, ge=1)
    """Channels of each discriminator at half of its size; every halving doubles them."""

    def make_painter(self, z_dim: int, shape: Shape) -> nn.Module:
        """Returns the generator of people in two stages."""
        return StackedGenerator(
            z_dim,
            shape,
            c_dim=self.c_dim,
            base_channels=self.generator_channels,
            refine_channels=self.refine_channels,
            frequencies=compute_people_frequencies(),
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a projection discriminator for each size."""
        return StackedDiscriminator(
            make_head_shape(shape),
            base_channels=self.discriminator_channels,
            values=[table.shape[1] for table in compute_people_frequencies().values()],
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the losses of `avatars-text` at both sizes, and without a condition besides."""
        fitting, alone = StackedDiscriminator.CONDITIONAL, StackedDiscriminator.UNCONDITIONAL
        relativistic = ADVERSARIAL_LOSSES["relativistic"]
        added = partial(sum_judgements, relativistic, StackedDiscriminator.JUDGEMENTS)
        return GanLoss(
            added((*fitting, *alone)),
            terms_D=[
                self.make_penalties(),
                WrongCaption(self.wrong_caption_weight, added(fitting)),
            ],
            terms_G=[
                # A mean over both sizes, which count as a sum.
                Reconstruction(_SIZES * self.reconstruction_weight),
                CaptionReading(self.reading_weight, CaptionDraws(self.captions_per_image)),
            ],
            view=Pyramid(shape.image_channels, _SIZES),
            augmentation=self.make_augmentation(),
        )
