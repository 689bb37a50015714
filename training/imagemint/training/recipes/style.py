"""Recipe ``style``: a small style-based generator for few images."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.path_length import PathLength
from imagemint.training.networks import Discriminator, ResidualDiscriminator, Shape, StyleGenerator
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions


class StyleRecipe(ZeroCentredOptions, Recipe):
    """Karras et al., "A Style-Based Generator Architecture for GANs" (2018), and its successors.

    Mapping network, modulated convolutions, noise, style mixing, path length regularisation and
    pictures summed over all sizes, against a residual discriminator with the deviation of the batch
    as a feature, with the non-saturating loss and lazy R1; adaptive augmentation (2020), since it
    trains on 3,063 emoji. Truncation draws w towards its mean.

    Every doubling of the size halves the channels; StyleGAN 2 keeps them up to 32 pixels. The
    mapping network has 4 layers, where the paper has 8. G upsamples bilinearly, which equals the
    authors' filter of [1, 3, 3, 1] except at the borders. D averages 2x2 pixels in place of that
    filter. StyleGAN 2 takes a gamma of 0.0002 times the square of the size over the batch size,
    which is 0.026 for batches of 32 images of 64 pixels. Here it is 1, since D is another network;
    0.026 was not tried.
    """

    name: ClassVar[str] = "style"
    dataset: ClassVar[str] = "emoji64"
    truncation: ClassVar[Literal["threshold", "psi"]] = "psi"
    values_before: ClassVar[dict[str, Any]] = {
        "minibatch_deviation": False,
        "noise": False,
        "mixing": 0.0,
        "path_length_weight": 0.0,
    }

    images: int = Field(default=2_000_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=32, ge=2)
    """Images in one step of either network."""
    z_dim: int = Field(default=128, ge=1)
    """Length of a latent."""
    w_dim: int = Field(default=128, ge=1)
    """Length of an intermediate latent."""
    mapping_layers: int = Field(default=4, ge=1)
    """Dense layers of the mapping network."""
    noise: bool = True
    """Whether G has noise behind each convolution; once trained it is the same for all images."""
    mixing: float = Field(default=0.9, ge=0, le=1)
    """Share of batches in which the layers from a random one on get the style of other latents."""
    path_length_weight: float = Field(default=2.0, ge=0)
    """Weight of path length regularisation, every eighth step on half of the batch; 0: none."""
    minibatch_deviation: bool = True
    """Whether the variation within the batch is one more feature of D, as in the paper."""
    generator_channels: int = Field(default=256, ge=16, multiple_of=16)
    """Channels of the generator at 4x4."""
    discriminator_channels: int = Field(default=256, ge=16, multiple_of=16)
    """Channels of the discriminator at 4x4."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=5e-4, gt=0)
    """Step size of the discriminator's optimiser, whose weights are not equalised."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""
    augment: Literal["none", "diff", "ada"] = "ada"
    """Augmentation of what D sees: none, differentiable (diff; Zhao et al., 2020), or adaptive
    (ada; Karras et al., 2020), whose strength follows how much D overfits."""
    final_penalty_weight: float = Field(default=1.0, ge=0)
    """Gamma once the burn-in is over: smooth at first for stability, sharper later for detail."""
    penalty_interval: int = Field(default=16, ge=1)
    """Steps between two penalties; each is scaled by the interval, as in StyleGAN 2."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a style-based generator."""
        return StyleGenerator(
            self.z_dim,
            Shape(0, shape.image_size, shape.image_channels),
            w_dim=self.w_dim,
            base_channels=self.generator_channels,
            mapping_layers=self.mapping_layers,
            noise=self.noise,
            mixing=self.mixing,
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a residual discriminator."""
        return ResidualDiscriminator(
            Shape(0, shape.image_size, shape.image_channels),
            base_channels=self.discriminator_channels,
            deviation=self.minibatch_deviation,
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the non-saturating loss with R1 and path length regularisation."""
        return GanLoss(
            ADVERSARIAL_LOSSES["non-saturating"],
            terms_D=[self.make_penalties(r2=False)],
            terms_G=[PathLength(self.path_length_weight)] if self.path_length_weight else [],
            augmentation=self.make_augmentation(),
        )
