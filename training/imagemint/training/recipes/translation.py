"""The base class of recipes that translate images: options of a run, and what builds its parts."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.losses.translation import TranslationLoss
from imagemint.training.networks.patch import PatchDiscriminator, check_patches
from imagemint.training.recipes.options import RunOptions

Objective = Literal["non-saturating", "least-squares", "hinge", "relativistic"]
ImageShape = tuple[int, int, int]
"""Height, width and channels of a target."""


class TranslationRecipe(RunOptions):
    """Everything that decides the weights of a translator, besides the data and the code."""

    dataset: ClassVar[str] = "avatars64"
    """Data set whose images are the targets."""
    task: ClassVar[str]
    """What its sources are: a key of `datasets.translations.TASKS`."""
    takes_pairs: ClassVar[bool] = False
    """Whether it also learns pairs of one's own; see `datasets.translations.halves`."""
    snapshots_every: ClassVar[int] = 16_000
    """Images between two checkpoints, unless a run says otherwise."""
    free_step: ClassVar[int] = 0
    """The translator takes any height and width that are multiples of this; 0: only its own. Such a
    translator has an attribute ``radius``: pixels of the source that decide a pixel of it."""
    max_side: ClassVar[int] = 64
    """Largest height and width of one pass of a translator of free size."""
    calibration_batches: ClassVar[int] = 8
    """Batches of 64 sources over which batch-normalisation statistics are measured again."""

    images: int = Field(default=80_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    batch_size: int = Field(default=16, ge=2)
    """Images in one step of either network."""
    ema_half_life: int = Field(default=10_000, ge=1)
    """Half-life of the generator's moving average, in images."""
    decay_share: float = Field(default=0.5, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""
    objective: Objective = "non-saturating"
    """Adversarial loss, the mean over all patches."""
    adversarial_weight: float = Field(default=1.0, ge=0)
    """Weight of the adversarial loss of G; 0: there is no discriminator, the other losses decide
    alone."""
    adversarial_after: int = Field(default=0, ge=0)
    """Images before the discriminator begins; until then the other losses decide alone."""
    discriminator_channels: int = Field(default=32, ge=1)
    """Channels of the discriminator at half the size; every further layer doubles them."""
    discriminator_layers: int = Field(default=2, ge=1)
    """Halvings of the discriminator: 2 for patches of 34 pixels a side, 3 for 70."""

    @property
    def needs_judge(self) -> bool:
        """Whether a loss looks at images through a trained classifier."""
        return False

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns a fresh G: ``G(source [N, S, H, W])`` is [N, C, H', W'], all in [-1, 1].

        Raises:
            DatasetError: it cannot translate sources of this form.
        """
        raise NotImplementedError

    def make_patch_discriminator(
        self, channels: int, height: int, width: int
    ) -> PatchDiscriminator:
        """Returns a discriminator of patches for images with these channels, of this size.

        Raises:
            DatasetError: they are too small for it, and there is an adversarial loss.
        """
        if self.adversarial_weight:
            check_patches(height, width, self.discriminator_layers)
        return PatchDiscriminator(
            channels,
            base_channels=self.discriminator_channels,
            layers=self.discriminator_layers,
        )

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns fresh discriminators by name; see `TranslationLoss`."""
        raise NotImplementedError

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the losses of G and D.

        Args:
            form: form of the sources.
            target: shape of the targets.
            judge: layers of a trained classifier; None only where ``needs_judge`` is not set.
        """
        raise NotImplementedError
