"""Recipe ``infogan``: codes whose meaning is learnt without labels."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import MutualInformation
from imagemint.training.networks import ConvolutionalDiscriminator, Discriminator, Shape
from imagemint.training.networks.convolutional import add_heads
from imagemint.training.recipes.convolutional import ConvolutionalRecipe


class InfoganRecipe(ConvolutionalRecipe):
    """Chen et al., "InfoGAN: Interpretable Representation Learning" (2016).

    The categorical code is what a class is elsewhere: the exported graph takes it as ``class_id``
    and its labels are ``code 0``, ``code 1`` and so on, since training decides what each shows. The
    continuous codes are the first elements of ``z``, which a request may give explicitly. They are
    normal, as all of ``z``; those of the paper are uniform.
    """

    name: ClassVar[str] = "infogan"
    condition: ClassVar[Literal["none", "class", "code"]] = "code"

    values_before: ClassVar[dict[str, Any]] = {"continuous_weight": 0.5, "code_features": 0}

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own. Both rates
    are those of the paper (appendix C). With equal rates the codes match fewer digits, see
    docs/notes/recipes-against-papers.md."""
    discriminator_learning_rate: float | None = Field(default=2e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    codes: int = Field(default=10, ge=2)
    """Values of the categorical code."""
    continuous_codes: int = Field(default=2, ge=0)
    """Number of continuous codes, which are the first elements of the latent."""
    code_features: int = Field(default=128, ge=0)
    """Features of the hidden layer of Q, which reads the codes from D's features; 128 in the paper,
    for all codes together, where the categorical and the continuous codes have one each here. 0: no
    hidden layer."""
    information_weight: float = Field(default=1.0, gt=0)
    """Lambda: weight of the bound on the mutual information."""
    continuous_weight: float = Field(default=1.0, ge=0)
    """Weight of the continuous codes in the bound, beside the categorical one."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.continuous_codes >= self.z_dim:
            raise ValueError(
                f"continuous_codes is {self.continuous_codes}, should be less than z_dim"
                f" ({self.z_dim}), because they are a part of it"
            )
        return self

    def list_class_labels(self, of_data: tuple[str, ...]) -> tuple[str, ...]:
        """Returns a name for each value of the code."""
        return tuple(f"code {code}" for code in range(self.codes))

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator with heads for the codes: Q of the paper."""
        discriminator = ConvolutionalDiscriminator(shape, base_channels=self.discriminator_channels)
        heads = {"code": self.codes}
        if self.continuous_codes:
            heads["continuous"] = self.continuous_codes
        return add_heads(discriminator, hidden=self.code_features, **heads)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the non-saturating loss with the information term for both networks."""
        terms = [
            MutualInformation(
                self.information_weight, self.continuous_codes, self.continuous_weight
            )
            for _ in ("D", "G")
        ]
        return GanLoss(
            ADVERSARIAL_LOSSES["non-saturating"],
            terms_D=terms[:1],
            terms_G=terms[1:],
            augmentation=self.make_augmentation(),
        )
