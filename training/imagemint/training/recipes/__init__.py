"""Recipes: small typed files. Importing one does not import torch."""

from imagemint.training.recipes.avatars import AvatarsRecipe
from imagemint.training.recipes.conditional import AcganRecipe, CganRecipe, ProjectionRecipe
from imagemint.training.recipes.dcgan import DcganRecipe, LsganRecipe
from imagemint.training.recipes.improved import ImprovedRecipe, SsganRecipe
from imagemint.training.recipes.infogan import InfoganRecipe
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.recipes.msg import MsgRecipe
from imagemint.training.recipes.progressive import ProgressiveRecipe
from imagemint.training.recipes.r3gan import R3ganRecipe
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.recipes.stacked_mnist import StackedMnistRecipe
from imagemint.training.recipes.style import StyleRecipe
from imagemint.training.recipes.vanilla_mnist import VanillaMnistRecipe
from imagemint.training.recipes.wasserstein import SnganRecipe, WganGpRecipe, WganRecipe

_ALL: tuple[type[Recipe], ...] = (
    MnistRecipe,
    StackedMnistRecipe,
    VanillaMnistRecipe,
    DcganRecipe,
    LsganRecipe,
    CganRecipe,
    ProjectionRecipe,
    AcganRecipe,
    WganRecipe,
    WganGpRecipe,
    SnganRecipe,
    InfoganRecipe,
    ImprovedRecipe,
    SsganRecipe,
    R3ganRecipe,
    MsgRecipe,
    ProgressiveRecipe,
    StyleRecipe,
    AvatarsRecipe,
)

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in _ALL}
"""Every recipe of a generator, by name."""
