"""The base class of recipes: the options of a run, and methods that build its parts."""

from typing import Any, ClassVar, Literal

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


class Recipe(BaseModel):
    """Everything that decides the weights of a run, besides the data and the code.

    Checkpoints name every option that the recipe had when they were written. An option that is
    added later is read from older checkpoints as its default, or as its value in `values_before`
    where the default is not what was done before.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: ClassVar[str]
    """Its name on the command line, a key of the table in `recipes/__init__.py`."""
    dataset: ClassVar[str] = "mnist"
    """Data set it trains on, a key of `datasets.DATASETS`."""
    condition: ClassVar[Literal["none", "class", "code", "caption"]] = "none"
    """The condition of G: none, class, caption, or a code whose meaning G learns without labels."""
    latent: ClassVar[Literal["normal", "uniform"]] = "normal"
    """Distribution of a latent's elements."""
    truncation: ClassVar[Literal["threshold", "psi"]] = "threshold"
    """How the generator truncates its latents; with psi it has one more input."""

    snapshots_every: ClassVar[int] = 64_000
    """Images between two checkpoints, unless a run says otherwise."""
    judged_after: ClassVar[int] = 128_000
    """Images before mode collapse is judged, unless a run says otherwise."""
    recovers_within: ClassVar[int] = 256_000
    """Images for which a collapse has to last to end a run, unless the run says otherwise."""
    values_before: ClassVar[dict[str, Any]] = {}
    """Values that options have in checkpoints which do not name them, where not the default."""

    recalibration_batches: ClassVar[int] = 40
    """Batches of 256 images over which batch-normalisation statistics are measured again."""

    images: int = Field(default=480_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=64, ge=2)
    """Images in one step of either network."""
    z_dim: int = Field(default=64, ge=1)
    """Length of a latent."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Optimiser of both networks."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay of the second moment; RMSprop's only one."""
    decay_share: float = Field(default=0.0, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""
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
    ema_half_life: int = Field(default=50_000, ge=1)
    """Half-life of the generator's moving average, in images."""
    ema_ramp_up: float = Field(default=0.05, gt=0)
    """Cap of the half-life as a share of the images seen so far, so that it starts short."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of the initial weights, the data order and the latents."""

    @classmethod
    def recorded_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the options of an older run, with those that the recipe did not have then."""
        fields = cls.model_fields.items()
        defaults = {name: field.default for name, field in fields if not field.is_required()}
        return defaults | cls.values_before | options

    def discriminator_steps_at(self, step: int) -> int:
        """Returns the number of D steps before the G step with this index, from 0."""
        return self.discriminator_steps

    def discriminator_steps_before(self, step: int) -> int:
        """Returns the number of D steps of all G steps before this one."""
        return self.discriminator_steps * step

    def generator(self, shape: Shape) -> nn.Module:
        """Returns a fresh G: ``G(z)``, or ``G(z, y)`` where there is a condition.

        Of the shape's classes it may only use the number, and only under a condition.
        """
        raise NotImplementedError

    def discriminator(self, shape: Shape) -> Discriminator:
        """Returns a fresh D."""
        raise NotImplementedError

    def gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the losses of both networks."""
        raise NotImplementedError

    def augmentation(self) -> Augmentation:
        """Returns the augmentation that the options ask for."""
        if self.augment == "diff":
            return DifferentiableAugmentation()
        if self.augment == "ada":
            return AdaptiveAugmentation(self.augment_target)
        return Augmentation()

    def class_labels(self, of_data: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the labels of G's condition; () for a generator without one."""
        return of_data if self.condition == "class" else ()

    def captions(self) -> Captions | None:
        """Returns the captions that G understands; None if it takes none."""
        return None

    def network_labels(self, data: LabelledImages) -> NDArray[np.int64]:
        """Returns the labels of the training images that the networks may use: int64 [N].

        A recipe whose networks use attributes returns int64 [N, 1 + A], the class first.
        """
        return self.visible_labels(data.labels)

    def visible_labels(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
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
    """Steps between two penalties; each is scaled by the interval, as in StyleGAN 2."""

    def zero_centred_penalties(self, *, r2: bool = True) -> ZeroCentredPenalties:
        """Returns R1 and, with ``r2``, R2, with the weight and interval of the options."""
        gamma = CosineRamp(self.penalty_weight, self.final_penalty_weight, self.burn_in)
        return ZeroCentredPenalties(gamma, self.penalty_interval, r2=r2)
