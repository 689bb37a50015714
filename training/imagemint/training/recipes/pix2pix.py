"""Recipe ``pix2pix``: line drawings to cartoon people in colour."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.translation import L1, TranslationLoss
from imagemint.training.networks.unet import UNet, check_halvings
from imagemint.training.recipes.translation import ImageShape, TranslationRecipe


class Pix2pixRecipe(TranslationRecipe):
    """Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2016).

    A U-Net, a discriminator of patches that sees the source beside the result, and the mean
    absolute difference from the target. ``--adversarial-weight 0`` is the paper's baseline, which
    draws the average of all colours that are possible.
    """

    name: ClassVar[str] = "pix2pix"
    task: ClassVar[str] = "edges"
    takes_pairs: ClassVar[bool] = True

    base_channels: int = Field(default=16, ge=1)
    """Channels of the U-Net at full size; every halving doubles them, up to eight times."""
    depth: int = Field(default=4, ge=1)
    """Halvings of the U-Net."""
    l1_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean absolute difference from the target. The paper has 100; with less, colours
    that the source does not determine are more saturated."""
    batch_size: int = Field(default=4, ge=2)
    """Images in one step of either network; the paper has 1 to 10."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns a U-Net."""
        check_halvings(form.height, form.width, self.depth)
        return UNet(form.depth, target[2], base_channels=self.base_channels, depth=self.depth)

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches that sees the source as well."""
        judge = self.make_patch_discriminator(form.depth + target[2], *target[:2])
        return nn.ModuleDict({"target": judge})

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the adversarial loss and the difference from the target."""
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=[L1(self.l1_weight)],
            weight=self.adversarial_weight,
            after=self.adversarial_after,
            conditional=True,
        )
