"""Recipe ``deblurgan``: motion blur to sharp images."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.translation import L1, TranslationLoss
from imagemint.training.networks.changes import Corrector
from imagemint.training.networks.unet import UNet, check_halvings
from imagemint.training.recipes.perceptual import PerceptualOptions
from imagemint.training.recipes.translation import ImageShape, TranslationRecipe


class DeblurganRecipe(PerceptualOptions, TranslationRecipe):
    """Kupyn et al., "DeblurGAN: Blind Motion Deblurring Using Conditional ... Networks" (2018).

    The network draws the difference from the blurred image, and the loss is perceptual and
    adversarial. Differences: a U-Net, which costs a third of the residual network on a CPU;
    hinge instead of WGAN-GP; features of our own classifier instead of VGG; and the mean absolute
    difference, which keeps the colours. ``--adversarial-weight 0 --perceptual-weight 0`` is the
    baseline without them.
    """

    name: ClassVar[str] = "deblurgan"
    task: ClassVar[str] = "motion-blur"
    takes_pairs: ClassVar[bool] = True

    images: int = Field(default=120_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    base_channels: int = Field(default=24, ge=1)
    """Channels of the U-Net at full size; every halving doubles them, up to eight times."""
    depth: int = Field(default=3, ge=1)
    """Halvings of the U-Net."""
    l1_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean absolute difference from the target."""
    adversarial_weight: float = Field(default=0.05, ge=0)
    """Weight of the adversarial loss of G; 0: there is no discriminator, the other losses decide
    alone."""
    adversarial_after: int = Field(default=40_000, ge=0)
    """Images before the discriminator begins; until then the other losses decide alone."""
    perceptual_weight: float = Field(default=0.5, ge=0)
    """Weight of the perceptual loss, in the features of the classifier of --judge; 0: none."""
    perceptual_after: int = Field(default=40_000, ge=0)
    """Images before the perceptual loss counts."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns a U-Net that draws the difference from the source.

        Raises:
            DatasetError: the sources cannot be halved as often.
        """
        check_halvings(form.height, form.width, self.depth)
        return Corrector(
            UNet(form.depth, target[2], base_channels=self.base_channels, depth=self.depth)
        )

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches, which does not see the source."""
        judge = self.make_patch_discriminator(target[2], *target[:2])
        return nn.ModuleDict({"target": judge})

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the absolute difference with the perceptual and the adversarial loss."""
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=[L1(self.l1_weight), *self.make_perceptual_terms(target, judge)],
            weight=self.adversarial_weight,
            after=self.adversarial_after,
        )
