"""Recipe ``inpaint``: what a mask hides is filled, such as glasses or damage."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.holes import HoleReconstruction
from imagemint.training.losses.translation import TranslationLoss
from imagemint.training.networks.changes import HoleFiller
from imagemint.training.networks.unet import UNet, check_halvings
from imagemint.training.recipes.translation import ImageShape, TranslationRecipe


class InpaintRecipe(TranslationRecipe):
    """Pathak et al., "Context Encoders: Feature Learning by Inpainting" (2016).

    A source is an image and a mask; the hole is filled and the rest copied. The loss is
    the mean absolute difference below the mask with an adversarial loss. Differences: holes are
    rectangles and strokes of any place, so the network is a U-Net and the discriminator looks at
    patches of the whole image, with the mask beside it (as Yu et al., 2019, do).
    ``--adversarial-weight 0`` is the baseline without it.
    """

    name: ClassVar[str] = "inpaint"
    task: ClassVar[str] = "holes"

    images: int = Field(default=120_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    base_channels: int = Field(default=16, ge=1)
    """Channels of the U-Net at full size; every halving doubles them, up to eight times."""
    depth: int = Field(default=4, ge=1)
    """Halvings of the U-Net."""
    hole_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean absolute difference below the mask."""
    adversarial_weight: float = Field(default=0.3, ge=0)
    """Weight of the adversarial loss of G; 0: there is no discriminator, the other losses decide
    alone."""
    adversarial_after: int = Field(default=20_000, ge=0)
    """Images before the discriminator begins; until then the other losses decide alone."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns a U-Net that fills the hole.

        Raises:
            DatasetError: the sources have no mask, or cannot be halved as often.
        """
        check_halvings(form.height, form.width, self.depth)
        network = UNet(form.depth, target[2], base_channels=self.base_channels, depth=self.depth)
        return HoleFiller(network)

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches that sees the source and its mask as well."""
        judge = self.make_patch_discriminator(form.depth + target[2], *target[:2])
        return nn.ModuleDict({"target": judge})

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the difference below the mask and the adversarial loss."""
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=[HoleReconstruction(self.hole_weight)],
            weight=self.adversarial_weight,
            after=self.adversarial_after,
            conditional=True,
        )
