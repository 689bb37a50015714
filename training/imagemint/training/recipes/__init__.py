"""The table of all recipes. A recipe, and therefore torch, is imported when it is requested.

To add a recipe, write its file and add one line to `TABLE`, or to
`TRANSLATION_TABLE`; see training/README.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from imagemint.training.recipes.recipe import Recipe
    from imagemint.training.recipes.translation import TranslationRecipe

RecipeT = TypeVar("RecipeT")


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Attributes:
        location: module and class of the recipe below `imagemint.training`, as ``module:Class``.
        dataset: data set that it trains on by default.
        summary: what it trains, in one line for `--help` and `--list`.
    """

    location: str
    dataset: str
    summary: str

    def load(self) -> Any:  # noqa: ANN401 - a class of either kind of recipe
        """Imports the recipe and returns its class."""
        return resolve_name(f"imagemint.training.{self.location}")


TABLE: dict[str, Entry] = {
    "mnist": Entry(
        "recipes.mnist:MnistRecipe",
        "mnist",
        "class-conditional digits: projection, relativistic pairing, R1 and R2",
    ),
    "stacked-mnist": Entry(
        "recipes.stacked_mnist:StackedMnistRecipe",
        "stacked-mnist",
        "1000 modes, no labels: relativistic pairing, R1 and R2",
    ),
    "vanilla-mnist": Entry(
        "recipes.vanilla_mnist:VanillaMnistRecipe",
        "mnist",
        "digits by dense networks: the lecture's own setting",
    ),
    "dcgan": Entry("recipes.dcgan:DcganRecipe", "mnist", "digits by the rules of DCGAN"),
    "lsgan": Entry("recipes.dcgan:LsganRecipe", "mnist", "digits by least squares"),
    "cgan": Entry(
        "recipes.conditional:CganRecipe",
        "mnist",
        "class-conditional digits: the label concatenated",
    ),
    "projection": Entry(
        "recipes.conditional:ProjectionRecipe",
        "mnist",
        "class-conditional digits: projection, hinge, spectral normalisation",
    ),
    "acgan": Entry(
        "recipes.conditional:AcganRecipe",
        "mnist",
        "class-conditional digits: an auxiliary classifier",
    ),
    "wgan": Entry(
        "recipes.wasserstein:WganRecipe",
        "mnist",
        "digits by the earth mover's distance: clipped weights",
    ),
    "wgan-gp": Entry(
        "recipes.wasserstein:WganGpRecipe",
        "mnist",
        "digits by the earth mover's distance: gradient penalty",
    ),
    "sngan": Entry(
        "recipes.wasserstein:SnganRecipe", "mnist", "digits by hinge and spectral normalisation"
    ),
    "infogan": Entry(
        "recipes.infogan:InfoganRecipe",
        "mnist",
        "digits with codes whose meaning is learnt without labels",
    ),
    "improved": Entry(
        "recipes.improved:ImprovedRecipe", "mnist", "digits by the improved techniques"
    ),
    "ssgan": Entry(
        "recipes.improved:SsganRecipe", "mnist", "digits with a few labels: K + 1 classes"
    ),
    "r3gan": Entry(
        "recipes.r3gan:R3ganRecipe",
        "cifar10",
        "class-conditional CIFAR-10: residual networks, no normalisation",
    ),
    "msg": Entry("recipes.msg:MsgRecipe", "mnist", "digits by multi-scale gradients"),
    "progressive": Entry(
        "recipes.progressive:ProgressiveRecipe", "mnist", "digits by networks that grow"
    ),
    "style": Entry(
        "recipes.style:StyleRecipe",
        "emoji64",
        "emoji: a style-based generator, adaptive augmentation",
    ),
    "avatars": Entry(
        "recipes.avatars:AvatarsRecipe",
        "avatars64",
        "cartoon people by head: attributes, scales, relativistic pairing",
    ),
    "avatars-text": Entry(
        "recipes.avatars_text:AvatarsTextRecipe",
        "avatars64",
        "cartoon people by caption: a reader of captions before `avatars`",
    ),
    "stack": Entry(
        "recipes.stack:StackRecipe",
        "avatars64",
        "cartoon people by caption, drawn at 32x32 and refined to 64x64",
    ),
}
"""Every recipe of a generator, by name, in the order of `imagemint train --list`."""

TRANSLATION_TABLE: dict[str, Entry] = {
    "pix2pix": Entry(
        "recipes.pix2pix:Pix2pixRecipe",
        "avatars64",
        "line drawings to cartoon people: U-Net, discriminator of patches",
    ),
    "colorize": Entry(
        "recipes.colorize:ColorizeRecipe", "avatars64", "gray images to colour, by pix2pix"
    ),
    "cyclegan": Entry(
        "recipes.cyclegan:CycleganRecipe",
        "avatars64",
        "glasses off and on without pairs: cycle consistency",
    ),
    "srgan": Entry(
        "recipes.srgan:SrganRecipe",
        "avatars64",
        "images of four times the size: SRResNet, perceptual loss",
    ),
    "deblurgan": Entry(
        "recipes.deblurgan:DeblurganRecipe",
        "avatars64",
        "motion blur to sharp images: the difference, perceptual loss",
    ),
    "inpaint": Entry(
        "recipes.inpaint:InpaintRecipe",
        "avatars64",
        "holes and hidden objects filled: context encoder, mask beside the image",
    ),
    "next-frame": Entry(
        "recipes.next_frame:NextFrameRecipe",
        "avatars64",
        "four frames to the next: difference of edges, adversarial loss",
    ),
    "style-transfer": Entry(
        "recipes.style_transfer:StyleTransferRecipe",
        "avatars64",
        "the style of one picture for any image: Gram matrices, total variation",
    ),
}
"""Every recipe of a translator, by name, in the order of `imagemint train --list`."""

CLASSIFIER_TABLE: dict[str, Entry] = {
    "mnist-classifier": Entry(
        "classifier.recipes:MnistClassifierRecipe",
        "mnist",
        "the classifier that judges generators of digits",
    ),
    "image-classifier": Entry(
        "classifier.recipes:ImageClassifierRecipe",
        "cifar10",
        "a residual classifier of any data set",
    ),
    "cifar10-classifier": Entry(
        "classifier.recipes:Cifar10ClassifierRecipe",
        "cifar10",
        "the classifier that judges generators of CIFAR-10",
    ),
    "avatars-classifier": Entry(
        "classifier.recipes:AvatarsClassifierRecipe",
        "avatars64",
        "the classifier of cartoon people and their attributes",
    ),
}
"""Every recipe of a classifier, by name."""


class Recipes(Mapping[str, RecipeT]):
    """The classes of a table by name; each is imported when it is requested.

    Args:
        table: the entries, read at each call.
    """

    def __init__(self, table: Mapping[str, Entry]) -> None:
        self._table = table

    def __getitem__(self, name: str) -> RecipeT:
        recipe: RecipeT = self._table[name].load()
        return recipe

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


RECIPES: "Recipes[type[Recipe]]" = Recipes(TABLE)
"""The class of every recipe of a generator, by name."""

TRANSLATION_RECIPES: "Recipes[type[TranslationRecipe]]" = Recipes(TRANSLATION_TABLE)
"""The class of every recipe of a translator, by name."""
