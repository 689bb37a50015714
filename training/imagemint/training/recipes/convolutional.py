"""The base class of recipes with DCGAN's networks."""

from pydantic import Field
from torch import nn

from imagemint.training.networks import ConditionalGenerator, Shape
from imagemint.training.recipes.recipe import Recipe


class ConvolutionalRecipe(Recipe):
    """A recipe with the generator of DCGAN; a class embedding is concatenated to the latent.

    The embedding is much shorter than the latent. G's first layer sums over both, so the longer one
    has more effect: with 64 numbers for the class and 64 for the latent, the class had half of the
    variance at the start and three quarters after 192,000 images of ``cgan``, and G drew one
    picture for each class. With 8 numbers it has a ninth. See docs/notes/recipes-against-papers.md.

    Unless a recipe says otherwise, D has half of G's channels, initial weights are PyTorch's, and
    latents are 64 normal numbers.
    """

    images: int = Field(default=600_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    c_dim: int = Field(default=8, ge=1)
    """Length of the class embedding; not used without a condition."""
    generator_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels of the generator at the smallest size; every doubling of the size halves them."""
    discriminator_channels: int = Field(default=32, ge=1)
    """Channels of the discriminator at half the size; every halving of the size doubles them."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a DCGAN generator."""
        return ConditionalGenerator(
            self.z_dim,
            0 if self.condition == "none" else shape.num_classes,
            c_dim=self.c_dim,
            base_channels=self.generator_channels,
            image_channels=shape.image_channels,
            image_size=shape.image_size,
        )
