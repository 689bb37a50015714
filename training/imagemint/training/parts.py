"""The parts that recipes compose, under one roof: a recipe imports this once it needs torch."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from torch import nn

from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES, smooth_labels
from imagemint.training.losses.augment import AdaptiveAugmentation, DifferentiableAugmentation
from imagemint.training.losses.gan_loss import Augmentation, GanLoss
from imagemint.training.losses.path_length import PathLength
from imagemint.training.losses.ramp import CosineRamp
from imagemint.training.losses.regularizers import (
    AuxiliaryClassifier,
    FeatureMatching,
    HistoricalAverage,
    LipschitzPenalty,
    Mismatch,
    MutualInformation,
    Reconstruction,
    Supervision,
    WeightClipping,
    ZeroCentredPenalties,
)
from imagemint.training.networks import (
    AttributeDiscriminator,
    AttributeGenerator,
    ConditionalGenerator,
    ConvolutionalDiscriminator,
    GrowingDiscriminator,
    GrowingGenerator,
    Grown,
    MinibatchDiscrimination,
    MlpDiscriminator,
    MlpGenerator,
    MultiScaleDiscriminator,
    MultiScaleGenerator,
    ProjectionDiscriminator,
    Pyramid,
    ResidualDiscriminator,
    ResidualGenerator,
    SemiSupervisedDiscriminator,
    Shape,
    StyleGenerator,
    VirtuallyNormalisedGenerator,
    level_at,
)
from imagemint.training.networks.convolutional import doublings
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions

__all__ = [
    "ADVERSARIAL_LOSSES",
    "AttributeDiscriminator",
    "AttributeGenerator",
    "AuxiliaryClassifier",
    "ConditionalGenerator",
    "ConvolutionalDiscriminator",
    "FeatureMatching",
    "GanLoss",
    "GrowingDiscriminator",
    "GrowingGenerator",
    "HistoricalAverage",
    "LipschitzPenalty",
    "Mismatch",
    "MlpDiscriminator",
    "MlpGenerator",
    "MultiScaleDiscriminator",
    "MultiScaleGenerator",
    "MutualInformation",
    "PathLength",
    "ProjectionDiscriminator",
    "Reconstruction",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "SemiSupervisedDiscriminator",
    "Shape",
    "StyleGenerator",
    "Supervision",
    "VirtuallyNormalisedGenerator",
    "WeightClipping",
    "augmentation",
    "dcgan_weights",
    "growth",
    "minibatch_discrimination",
    "pyramid_of",
    "smooth_labels",
    "with_heads",
    "zero_centred_penalties",
]

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_DCGAN_DEVIATION = 0.02


def augmentation(recipe: Recipe) -> Augmentation:
    """Returns what the recipe's options ask to do to images before D sees them."""
    if recipe.augment == "diff":
        return DifferentiableAugmentation()
    if recipe.augment == "ada":
        return AdaptiveAugmentation(recipe.augment_target)
    return Augmentation()


def zero_centred_penalties(options: ZeroCentredOptions, *, r2: bool = True) -> ZeroCentredPenalties:
    """Returns R1, and R2 unless that is not wanted, as the options say."""
    gamma = CosineRamp(options.penalty_weight, options.final_penalty_weight, options.burn_in)
    return ZeroCentredPenalties(gamma, options.penalty_interval, r2=r2)


def dcgan_weights(network: NetworkT) -> NetworkT:
    """Returns the network with weights from N(0, 0.02), scales of batch norms from N(1, 0.02)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, _DCGAN_DEVIATION)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, _DCGAN_DEVIATION)
    return network


def with_heads(D: ConvolutionalDiscriminator, **heads: int) -> ConvolutionalDiscriminator:
    """Returns D with further heads on its features: a dense layer of so many outputs each."""
    for name, outputs in heads.items():
        D.heads[name] = nn.Linear(D.width, outputs)
    return D


def minibatch_discrimination(kernels: int) -> Callable[[int], nn.Module]:
    """Returns what makes such a layer behind so many features; with no kernel, one of no effect."""
    return partial(MinibatchDiscrimination, kernels=kernels) if kernels else nn.Identity


def growth(G: nn.Module, D: nn.Module, stage_images: int) -> tuple[Grown, Callable[[int], None]]:
    """Returns the view of two growing networks, and what lets them grow before a step.

    Raises:
        TypeError: networks that do not grow.
    """
    if not (isinstance(G, GrowingGenerator) and isinstance(D, GrowingDiscriminator)):
        raise TypeError(f"{type(G).__name__} and {type(D).__name__} do not grow")

    def grow(images_seen: int) -> None:
        for network in (G, D):
            network.level.fill_(level_at(images_seen, network.levels, stage_images))

    return Grown(D), grow


def pyramid_of(shape: Shape) -> Pyramid:
    """Returns the form of images at all sizes that a network for them passes."""
    _, count = doublings(shape.image_size)
    return Pyramid(shape.image_channels, count + 1)
