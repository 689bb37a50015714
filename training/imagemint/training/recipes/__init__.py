"""Recipes: one small typed file each. Importing one does not import torch."""

from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.recipes.stacked_mnist import StackedMnistRecipe

_ALL: tuple[type[Recipe], ...] = (MnistRecipe, StackedMnistRecipe)

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in _ALL}
"""Every recipe of a generator, by name."""
