"""Recipes ``improved`` and ``ssgan``: the techniques of one paper."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES, smooth_labels
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.losses.regularizers import FeatureMatching, HistoricalAverage, Supervision
from imagemint.training.networks import (
    ConvolutionalDiscriminator,
    DenseGenerator,
    DenseSemiSupervisedDiscriminator,
    Discriminator,
    MinibatchDiscrimination,
    SemiSupervisedDiscriminator,
    Shape,
    VirtuallyNormalisedGenerator,
)
from imagemint.training.recipes.convolutional import ConvolutionalRecipe


class ImprovedRecipe(ConvolutionalRecipe):
    """Salimans et al., "Improved Techniques for Training GANs" (2016), sections 3.1 to 3.5.

    Minibatch discrimination, historical averaging, one-sided label smoothing, virtual batch
    normalisation and feature matching, each of them an option; on DCGAN's networks. Feature
    matching takes the place of the adversarial loss in the paper, which finds minibatch
    discrimination superior to it for images, and feature matching better for D as a classifier
    (sections 3.2 and 5). So it is off here, and on in recipe ``ssgan``.

    The authors compare images by 100 kernels, whose scales and offsets the first batch sets. Here
    there are 32 without that.
    """

    name: ClassVar[str] = "improved"

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""
    discriminator_learning_rate: float | None = Field(default=4e-4, gt=0)
    """Learning rate of the discriminator, for two time scales (Heusel et al., 2017)."""
    feature_weight: float = Field(default=0.0, ge=0)
    """Weight of feature matching in G's loss, 1 with an adversarial weight of 0 for the paper's."""
    adversarial_weight: float = Field(default=1.0, ge=0)
    """Weight of the adversarial loss in G's loss."""
    similarity_kernels: int = Field(default=32, ge=0)
    """Similarities that minibatch discrimination adds to the features of D; 0: none."""
    history_weight: float = Field(default=0.03, ge=0)
    """Weight of each network's squared distance from the mean of its past weights. The paper gives
    none. With this one its gradient is a fortieth of the whole after 6,400 images."""
    real_target: float = Field(default=0.9, gt=0, le=1)
    """D's target for real images. Below 1 it is one-sided label smoothing."""
    virtual_batch: int = Field(default=64, ge=0)
    """Latents in the reference batch of virtual batch normalisation in G. 0: no such batch."""

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns a DCGAN generator, with virtual batch normalisation if asked for."""
        if not self.virtual_batch:
            return super().make_generator(shape)
        return VirtuallyNormalisedGenerator(
            self.z_dim,
            shape,
            base_channels=self.generator_channels,
            reference=self.virtual_batch,
        )

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a DCGAN discriminator, with minibatch discrimination if asked for."""
        return ConvolutionalDiscriminator(
            shape,
            base_channels=self.discriminator_channels,
            tail=self._make_minibatch_discrimination(),
        )

    def _make_minibatch_discrimination(self) -> Callable[[int], nn.Module]:
        kernels = self.similarity_kernels
        return partial(MinibatchDiscrimination, kernels=kernels) if kernels else nn.Identity

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the smoothed adversarial loss, historical averages and feature matching."""
        return GanLoss(
            smooth_labels(self.real_target),
            terms_D=[HistoricalAverage(self.history_weight, D, "history_D")],
            terms_G=[
                FeatureMatching(self.feature_weight),
                HistoricalAverage(self.history_weight, G, "history_G"),
            ],
            adversarial_weight=self.adversarial_weight,
            augmentation=self.make_augmentation(),
        )


class SsganRecipe(ConvolutionalRecipe):
    """Salimans et al. (2016), section 5: K + 1 classes, and labels for a few images only.

    D learns the K classes from the labels that are shown and "generated" as one more from all; G
    matches features, as the paper found best for D's classification. Networks, batches and rates
    are those of the authors' code for MNIST: each step of D has a batch of images with labels
    besides the one without. Five things differ: latents are normal and not uniform, the rates may
    fall at the end of a run (`decay_share`) where the authors average D's weights, G matches the
    features of the batch that D has just seen, its batch normalisation has a scale and its last
    layer no weight normalisation, and a run has 100 epochs and not 300.
    """

    name: ClassVar[str] = "ssgan"
    values_before: ClassVar[dict[str, Any]] = {
        "adam_epsilon": 1e-8,
        "adversarial_weight": 1.0,
        "architecture": "convolutional",
        "labelled_batch": 0,
        "supervision_weight": 1.0,
    }

    images: int = Field(default=6_000_000, ge=1)
    """Real images shown to the discriminator, counted with repetition: the length of the run."""
    batch_size: int = Field(default=100, ge=2)
    """Images in one step of either network."""
    z_dim: int = Field(default=100, ge=1)
    """Length of a latent."""
    architecture: Literal["dense", "convolutional"] = "dense"
    """Dense networks of the authors, with weight normalisation and noise in D, or DCGAN's."""
    width: int = Field(default=1000, ge=4, multiple_of=4)
    """Features of the widest layer of the dense D; each hidden layer of the dense G has half."""
    pixel_noise: float = Field(default=0.3, ge=0)
    """Standard deviation of the noise on what the dense D sees, in images from 0 to 1."""
    feature_noise: float = Field(default=0.5, ge=0)
    """Standard deviation of the noise before each further layer of the dense D."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own. For the
    convolutional networks 0.001 is better."""
    adam_epsilon: float = Field(default=1e-4, gt=0)
    """What Adam adds to the root of the second moment. The authors add 1e-8 to the second moment
    itself, so that G's steps become small once features match."""
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """Last share of the run over which the learning rate falls to zero along a cosine."""
    labelled: int = Field(default=10, ge=1)
    """Number of labels of each class that D sees, ten in the paper's main result for MNIST. Those
    of all other images are hidden."""
    labelled_batch: int = Field(default=100, ge=0)
    """Number of images with a label in each step of D. 0: those that the real batch happens to
    hold."""
    supervision_weight: float = Field(default=2.0, gt=0)
    """Weight of the cross-entropy of the labels in D's loss. The authors' code halves both parts of
    the loss without labels instead."""
    feature_weight: float = Field(default=1.0, gt=0)
    """Weight of feature matching in G's loss."""
    adversarial_weight: float = Field(default=0.0, ge=0)
    """Weight of the adversarial loss in G's loss, which feature matching replaces."""

    def count_labelled_images(self) -> int:
        """Returns how many images with a visible label a D step gets besides the real batch."""
        return self.labelled_batch

    def select_visible_labels(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the labels [N], all but the first so many of each class replaced by -1."""
        visible = np.full_like(labels, -1)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)[: self.labelled]
            visible[rows] = label
        return visible

    def make_generator(self, shape: Shape) -> nn.Module:
        """Returns dense layers with batch normalisation, or a DCGAN generator."""
        if self.architecture == "dense":
            return DenseGenerator(self.z_dim, shape, width=self.width // 2)
        return super().make_generator(shape)

    def make_discriminator(self, shape: Shape) -> Discriminator:
        """Returns a discriminator of K + 1 classes: dense with noise, or convolutional."""
        if self.architecture == "dense":
            return DenseSemiSupervisedDiscriminator(
                shape,
                width=self.width,
                pixel_noise=self.pixel_noise,
                feature_noise=self.feature_noise,
            )
        return SemiSupervisedDiscriminator(shape, base_channels=self.discriminator_channels)

    def make_gan_loss(self, G: nn.Module, D: Discriminator, shape: Shape) -> GanLoss:
        """Returns the non-saturating loss, supervision for D, feature matching for G."""
        return GanLoss(
            ADVERSARIAL_LOSSES["non-saturating"],
            terms_D=[Supervision(self.supervision_weight)],
            terms_G=[FeatureMatching(self.feature_weight)],
            adversarial_weight=self.adversarial_weight,
            augmentation=self.make_augmentation(),
        )
