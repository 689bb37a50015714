"""Recipe ``mnist``: a class-conditional convolutional GAN at 28x28."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from imagemint.training.networks import ConditionalGenerator, ProjectionDiscriminator


class MnistRecipe(BaseModel):
    """Everything that decides the weights of a run, besides the data and the code."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: ClassVar[str] = "mnist"
    dataset: ClassVar[str] = "mnist"
    license: ClassVar[str] = "CC-BY-SA-3.0"

    images: int = Field(default=480_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=64, ge=2)
    """Images in one step."""
    z_dim: int = Field(default=64, ge=1)
    """Length of a latent."""
    c_dim: int = Field(default=64, ge=1)
    """Length of the class embedding."""
    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at 7x7."""
    discriminator_channels: int = Field(default=48, ge=1)
    """Channels of the discriminator at 14x14."""
    objective: Literal["relativistic", "hinge"] = "relativistic"
    """Adversarial loss."""
    penalty_weight: float = Field(default=1.0, ge=0)
    """Gamma of the R1 and R2 penalties at the start; they enter the loss as gamma / 2 each."""
    final_penalty_weight: float = Field(default=0.1, ge=0)
    """Gamma once the burn-in is over: smooth at first for stability, sharper later for detail."""
    burn_in: int = Field(default=150_000, ge=0)
    """Images over which gamma goes from the one to the other along a cosine, as in R3GAN."""
    mismatch_weight: float = Field(default=0.1, ge=0)
    """Weight of a further loss of D: real images with their class against the same with another
    (Reed et al., "Generative Adversarial Text to Image Synthesis", 2016), so that G has to heed the
    class. It shares the features of the real images and costs next to nothing."""
    penalty_interval: int = Field(default=8, ge=1)
    """Steps between two penalties; each is scaled by the interval, as in StyleGAN 2."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Adam's step size, for both networks."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the second moment."""
    decay_share: float = Field(default=0.4, ge=0, le=1)
    """Last share of the run over which the step size falls to zero along a cosine."""
    ema_half_life: int = Field(default=50_000, ge=1)
    """Half-life of the generator's moving average, in images."""
    ema_ramp_up: float = Field(default=0.05, gt=0)
    """Cap of the half-life as a share of the images seen so far, so that it starts short."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of the initial weights, the data order and the latents."""

    def networks(
        self, num_classes: int, image_channels: int
    ) -> tuple["ConditionalGenerator", "ProjectionDiscriminator"]:
        """Returns freshly initialised G and D."""
        from imagemint.training.networks import (  # noqa: PLC0415 - options must load without torch
            ConditionalGenerator,
            ProjectionDiscriminator,
        )

        generator = ConditionalGenerator(
            self.z_dim,
            num_classes,
            c_dim=self.c_dim,
            base_channels=self.generator_channels,
            image_channels=image_channels,
        )
        discriminator = ProjectionDiscriminator(
            num_classes, base_channels=self.discriminator_channels, image_channels=image_channels
        )
        return generator, discriminator
