"""Recipe ``cyclegan``: glasses off and on, or any other two classes, learnt without pairs."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.image_pool import ImagePool
from imagemint.training.losses.translation import CycleConsistency, IdentityLoss, TranslationLoss
from imagemint.training.networks.resnet import ResnetGenerator, TwoWay, check_quarters
from imagemint.training.recipes.translation import ImageShape, Objective, TranslationRecipe


class CycleganRecipe(TranslationRecipe):
    """Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent ... Networks" (2017).

    Two translators, there and back, and a discriminator for each side. Sources and targets
    are different people. Of other data than `avatars64`, sources are the images of the first of two
    classes, and targets those of the second. The generators draw the change of the image, because
    most of it stays.
    """

    name: ClassVar[str] = "cyclegan"
    task: ClassVar[str] = "glasses"

    images: int = Field(default=24_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    batch_size: int = Field(default=8, ge=2)
    """Images of each side in one step."""
    base_channels: int = Field(default=16, ge=1)
    """Channels of the generators at full size."""
    blocks: int = Field(default=3, ge=1)
    """Residual blocks of each generator."""
    residual: bool = True
    """Whether a generator draws the change of its source instead of the whole result."""
    objective: Objective = "least-squares"
    """Adversarial loss, the mean over all patches."""
    cycle_weight: float = Field(default=10.0, ge=0)
    """Weight of the round trips."""
    identity_weight: float = Field(default=5.0, ge=0)
    """Weight of the change of images that are targets already."""
    pool: int = Field(default=50, ge=0)
    """Generated images that a discriminator is shown again later; 0: none."""

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns two residual generators.

        Raises:
            DatasetError: the images cannot be halved twice.
        """
        check_quarters(form.height, form.width)
        sides = (form.depth, target[2]), (target[2], form.depth)
        there, back = (
            ResnetGenerator(
                *channels,
                base_channels=self.base_channels,
                blocks=self.blocks,
                residual=self.residual,
            )
            for channels in sides
        )
        return TwoWay(there, back)

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches for each side."""
        return nn.ModuleDict(
            {
                "target": self.make_patch_discriminator(target[2], *target[:2]),
                "source": self.make_patch_discriminator(form.depth, form.height, form.width),
            }
        )

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the adversarial losses, the round trips, and what has to stay."""
        shapes = {
            "target": (target[2], *target[:2]),
            "source": (form.depth, form.height, form.width),
        }
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=[CycleConsistency(self.cycle_weight), IdentityLoss(self.identity_weight)],
            weight=self.adversarial_weight,
            after=self.adversarial_after,
            pools={side: ImagePool(self.pool, shape) for side, shape in shapes.items()},
        )
