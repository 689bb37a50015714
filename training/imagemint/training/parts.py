"""The parts that recipes compose, under one roof: a recipe imports this once it needs torch."""

from imagemint.training.augmentation import AdaptiveAugmentation, DifferentiableAugmentation
from imagemint.training.game import Augmentation, Game
from imagemint.training.losses import OBJECTIVES, smoothed
from imagemint.training.networks import ConditionalGenerator, ProjectionDiscriminator
from imagemint.training.recipes.recipe import Recipe, ZeroCentredOptions
from imagemint.training.schedules import CosineRamp
from imagemint.training.terms import (
    LipschitzPenalty,
    Mismatch,
    WeightClipping,
    ZeroCentredPenalties,
)

__all__ = [
    "OBJECTIVES",
    "ConditionalGenerator",
    "Game",
    "LipschitzPenalty",
    "Mismatch",
    "ProjectionDiscriminator",
    "WeightClipping",
    "augmentation",
    "smoothed",
    "zero_centred_penalties",
]


def augmentation(recipe: Recipe) -> Augmentation:
    """Returns what the recipe's options ask to do to images before D sees them."""
    if recipe.augment == "diff":
        return DifferentiableAugmentation()
    if recipe.augment == "ada":
        return AdaptiveAugmentation(recipe.augment_target)
    return Augmentation()


def zero_centred_penalties(options: ZeroCentredOptions) -> ZeroCentredPenalties:
    """Returns R1 and R2 as the options say."""
    gamma = CosineRamp(options.penalty_weight, options.final_penalty_weight, options.burn_in)
    return ZeroCentredPenalties(gamma, options.penalty_interval)
