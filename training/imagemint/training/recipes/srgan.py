"""Recipe ``srgan``: images of four times the size."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.translation import L2, TranslationLoss
from imagemint.training.networks.super_resolution import SRResNet
from imagemint.training.recipes.perceptual import PerceptualOptions
from imagemint.training.recipes.translation import ImageShape, TranslationRecipe


class SrganRecipe(PerceptualOptions, TranslationRecipe):
    """Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a GAN" (2016).

    First SRResNet learns by the mean squared difference alone, as long as ``adversarial_after``
    and ``perceptual_after`` say. Then the perceptual and the adversarial loss are added; the
    squared difference stays, so that colours do not drift. A run that ends before is SRResNet.
    """

    name: ClassVar[str] = "srgan"
    task: ClassVar[str] = "low-resolution"
    free_step: ClassVar[int] = 1

    base_channels: int = Field(default=32, ge=1)
    """Channels of the generator."""
    blocks: int = Field(default=5, ge=1)
    """Residual blocks of the generator."""
    l2_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean squared difference from the target."""
    adversarial_weight: float = Field(default=0.01, ge=0)
    """Weight of the adversarial loss of G; 0: there is no discriminator, the other losses decide
    alone."""
    adversarial_after: int = Field(default=60_000, ge=0)
    """Images before the discriminator begins; until then the other losses decide alone."""
    perceptual_weight: float = Field(default=1.0, ge=0)
    """Weight of the perceptual loss, in the features of the classifier of --judge; 0: none."""
    perceptual_after: int = Field(default=60_000, ge=0)
    """Images before the perceptual loss counts."""
    images: int = Field(default=120_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    batch_size: int = Field(default=8, ge=2)
    """Images in one step of either network."""
    learning_rate: float = Field(default=4e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the first moment."""

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns an SRResNet for the scale of the data."""
        return SRResNet(
            form.depth, base_channels=self.base_channels, blocks=self.blocks, scale=form.scale
        )

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches, which does not see the source."""
        judge = self.make_patch_discriminator(target[2], *target[:2])
        return nn.ModuleDict({"target": judge})

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the squared difference with the perceptual and the adversarial loss."""
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=[L2(self.l2_weight), *self.make_perceptual_terms(target, judge)],
            weight=self.adversarial_weight,
            after=self.adversarial_after,
        )
