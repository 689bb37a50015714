"""The base class of recipes: the options of a run, and methods that build its parts."""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from imagemint.engine.captions import Captions
from imagemint.training.datasets import LabelledImages
from imagemint.training.losses.augment import AdaptiveAugmentation, DifferentiableAugmentation
from imagemint.training.losses.gan_loss import Augmentation, GanLoss
from imagemint.training.losses.ramp import CosineRamp
from imagemint.training.losses.regularizers import ZeroCentredPenalties
from imagemint.training.networks import Discriminator, Shape
from imagemint.training.recipes.options import RunOptions


class Recipe(RunOptions):
    """Everything that determines the weights of a generator, besides the data and the code.

    Grids, figures and exports of every recipe are of the moving average of G, with statistics of
    batch normalisation that are measured again, also where the paper has neither.
    """

    dataset: ClassVar[str] = "mnist"
    """Data set it trains on, a key of `datasets.DATASETS`."""
    condition: ClassVar[Literal["none", "class", "code", "caption"]] = "none"
    """The condition of G: none, class, caption, or a code whose meaning G learns without labels."""
    latent: ClassVar[Literal["normal", "uniform"]] = "normal"
    """Distribution of a latent's elements."""
    truncation: ClassVar[Literal["threshold", "psi"]] = "threshold"
    """How the generator truncates its latents; with psi it has one more input."""

    judged_after: ClassVar[int] = 128_000
    """Images before mode collapse is judged, unless a run says otherwise."""
    recovers_within: ClassVar[int] = 256_000
    """Images for which a collapse has to last to end a run, unless the run says otherwise."""
    recalibration_batches: ClassVar[int] = 40
    """Batches of 256 images over which batch-normalisation statistics are measured again."""

    z_dim: int = Field(default=64, ge=1)
    """Length of a latent."""
    discriminator_steps: int = Field(default=1, ge=1)
    """Steps of D for one of G, each on fresh images: k in Goodfellow et al. (2014)."""
    skip_lead: float = Field(default=1.0, gt=0, le=1)
    """D skips a step if it rates the real image above the generated one in more than this share of
    the pairs, so that G can catch up. 1: never."""
    augment: Literal["none", "diff", "ada"] = "none"
    """Augmentation of what D sees: none, differentiable (diff; Zhao et al., 2020), or adaptive
    (ada; Karras et al., 2020), whose strength follows how much D overfits."""
    augment_target: float = Field(default=0.6, ge=0, le=1)
    """Mean sign of D's logits of real images, or of real minus fake where only differences count,
    that adaptive augmentation aims at."""

    def count_discriminator_steps(self, step: int) -> int:
        """Returns the number of D steps before the G step with this index, from 0."""
        return self.discriminator_steps

    def count_discriminator_steps_before(self, step: int) -> int:
        """Returns the number of D steps of all G steps before this one."""
        return self.discriminator_steps * step

    def count_labelled_images(self) -> int:
        """Returns how many images with a visible label a D step gets besides the real batch."""
        return 0

    def find_warnings(self, data: LabelledImages) -> list[str]:
        """Returns reasons why these options do not suit the training images."""
        return []

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a fresh G: ``G(z)``, or ``G(z, y)`` with a condition.

        It may use only the number of classes of the shape, and only with a condition.
        """
        raise NotImplementedError

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a fresh D."""
        raise NotImplementedError

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the losses of both networks."""
        raise NotImplementedError

    def make_augmentation(self) -> Augmentation:
        """Returns the augmentation of the options."""
        if self.augment == "diff":
            return DifferentiableAugmentation()
        if self.augment == "ada":
            return AdaptiveAugmentation(self.augment_target)
        return Augmentation()

    def list_class_labels(self, of_data: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the labels of G's condition; () for a generator without one."""
        return of_data if self.condition == "class" else ()

    def get_captions(self) -> Captions | None:
        """Returns the captions that G understands; None if it takes none."""
        return None

    def select_network_labels(self, data: LabelledImages) -> NDArray[np.int64]:
        """Returns the labels of the training images that the networks may use: int64 [N].

        A recipe whose networks use attributes returns int64 [N, 1 + A], the class first.
        """
        return self.select_visible_labels(data.labels)

    def select_visible_labels(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the class labels int64 [N] that the networks may use, -1 if hidden."""
        return labels


class ZeroCentredOptions(BaseModel):
    """Options of a recipe that regularises D with R1 and R2."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    penalty_weight: float = Field(default=1.0, ge=0)
    """Gamma of the R1 and R2 penalties at the start; they enter the loss as gamma / 2 each."""
    final_penalty_weight: float = Field(default=0.1, ge=0)
    """Gamma once the burn-in is over: smooth at first for stability, sharper later for detail."""
    burn_in: int = Field(default=150_000, ge=0)
    """Images over which gamma goes from the one to the other along a cosine, as in R3GAN."""
    penalty_interval: int = Field(default=8, ge=1)
    """Steps between two penalties; each is scaled by the interval, as in StyleGAN 2, which also
    corrects the learning rate and Adam's decays."""

    def make_penalties(self, *, r2: bool = True) -> ZeroCentredPenalties:
        """Returns R1 and, with ``r2``, R2, with the weight and interval of the options."""
        gamma = CosineRamp(self.penalty_weight, self.final_penalty_weight, self.burn_in)
        return ZeroCentredPenalties(gamma, self.penalty_interval, r2=r2)
