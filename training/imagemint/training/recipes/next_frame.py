"""Recipe ``next-frame``: four frames to the next one."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gradient_difference import GradientDifference
from imagemint.training.losses.translation import L1, TranslationLoss
from imagemint.training.networks.changes import NextFrame
from imagemint.training.networks.unet import UNet, check_halvings
from imagemint.training.recipes.translation import ImageShape, TranslationRecipe


class NextFrameRecipe(TranslationRecipe):
    """Lotter et al., "Unsupervised Learning of Visual Structure using ... Networks" (2015).

    The next frame of a moving image, by a prediction loss and an adversarial loss, and by
    the gradient difference loss of Mathieu et al. (2016). Differences: a U-Net that sees four
    frames at once instead of a recurrent network. ``--adversarial-weight 0`` is the
    baseline without it.
    """

    name: ClassVar[str] = "next-frame"
    task: ClassVar[str] = "frames"

    images: int = Field(default=120_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    base_channels: int = Field(default=16, ge=1)
    """Channels of the U-Net at full size; every halving doubles them, up to eight times."""
    depth: int = Field(default=4, ge=1)
    """Halvings of the U-Net."""
    l1_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean absolute difference from the target."""
    gradient_weight: float = Field(default=10.0, ge=0)
    """Weight of the gradient difference loss."""
    adversarial_weight: float = Field(default=0.05, ge=0)
    """Weight of the adversarial loss of G; 0: there is no discriminator, the other losses decide
    alone."""
    adversarial_after: int = Field(default=40_000, ge=0)
    """Images before the discriminator begins; until then the other losses decide alone."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns a U-Net that draws the change of the last frame.

        Raises:
            DatasetError: the sources cannot be halved as often.
        """
        check_halvings(form.height, form.width, self.depth)
        network = UNet(
            form.depth, target[2] + 1, base_channels=self.base_channels, depth=self.depth
        )
        return NextFrame(network, target[2])

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches that sees the frames before as well."""
        judge = self.make_patch_discriminator(form.depth + target[2], *target[:2])
        return nn.ModuleDict({"target": judge})

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the difference from the target, that of its edges, and the adversarial loss."""
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=[L1(self.l1_weight), GradientDifference(self.gradient_weight)],
            weight=self.adversarial_weight,
            after=self.adversarial_after,
            conditional=True,
        )
