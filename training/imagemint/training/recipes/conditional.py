"""Recipes ``cgan``, ``projection`` and ``acgan``: three ways to tell D the class."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import AuxiliaryClassifier
from imagemint.training.networks import ConvolutionalDiscriminator, Discriminator, Shape
from imagemint.training.networks.convolutional import add_heads
from imagemint.training.recipes.convolutional import ConvolutionalRecipe


class CganRecipe(ConvolutionalRecipe):
    """Mirza & Osindero, "Conditional Generative Adversarial Nets" (2014): the label concatenated.

    To the latent in G, as one more plane of the image in D; on DCGAN's networks. The paper has
    dense maxout networks, in which the label has a hidden layer of its own.
    """

    name: ClassVar[str] = "cgan"
    condition: ClassVar[Literal["none", "class", "code"]] = "class"

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator that sees the class as a plane of the image."""
        return ConvolutionalDiscriminator(
            shape, base_channels=self.discriminator_channels, concatenated=True
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the non-saturating loss."""
        adversarial = ADVERSARIAL_LOSSES["non-saturating"]
        return GanLoss(adversarial, augmentation=self.make_augmentation())


class ProjectionRecipe(ConvolutionalRecipe):
    """Miyato & Koyama, "cGANs with Projection Discriminator" (2018).

    With the hinge loss and spectral normalisation of every layer and of the embedding, as there.
    Different from there: the class is concatenated to the latent, where G has conditional batch
    normalisation; D's features are those of each place, not sums over them; D has one step for each
    of G, not five; and two time scales take the place of equal rates of 2e-4.
    """

    name: ClassVar[str] = "projection"
    condition: ClassVar[Literal["none", "class", "code"]] = "class"

    values_before: ClassVar[dict[str, Any]] = {"spectral_embedding": False}

    spectral_embedding: bool = True
    """Whether the embedding of the classes in D is spectrally normalised, too, as in the paper."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the second moment."""
    discriminator_learning_rate: float | None = Field(default=4e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a spectrally normalised discriminator with a projection head."""
        return ConvolutionalDiscriminator(
            shape,
            base_channels=self.discriminator_channels,
            norm="none",
            spectral=True,
            projected=True,
            spectral_embedding=self.spectral_embedding,
        )

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the hinge loss."""
        return GanLoss(ADVERSARIAL_LOSSES["hinge"], augmentation=self.make_augmentation())


class AcganRecipe(ConvolutionalRecipe):
    """Odena et al., "Conditional Image Synthesis with Auxiliary Classifier GANs" (2016).

    D does not get the class but predicts it; on DCGAN's networks, without the dropout and the noise
    that the paper has in D. D's head learns from real images only. The paper has a learning rate of
    2e-4 for both networks. That of G is five times as high here: the distance to real digits is a
    fifth after as many images, see docs/notes/recipes-against-papers.md.
    """

    name: ClassVar[str] = "acgan"
    condition: ClassVar[Literal["none", "class", "code"]] = "class"

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=2e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    classifier_weight: float = Field(default=1.0, gt=0)
    """Weight of the cross-entropy of the classes."""
    classify_generated: bool = False
    """Whether D's head learns from generated images too, as in the paper. G and D may then agree on
    classes that are not those of the data: see docs/notes/shipped-models.md."""

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator with a head for the class."""
        discriminator = ConvolutionalDiscriminator(shape, base_channels=self.discriminator_channels)
        return add_heads(discriminator, classes=shape.num_classes)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the non-saturating loss with the classifier's losses."""
        return GanLoss(
            ADVERSARIAL_LOSSES["non-saturating"],
            terms_D=[
                AuxiliaryClassifier(self.classifier_weight, real=True, fake=self.classify_generated)
            ],
            terms_G=[AuxiliaryClassifier(self.classifier_weight, real=False, fake=True)],
            augmentation=self.make_augmentation(),
        )
