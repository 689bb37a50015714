"""Recipe ``colorize``: gray images to images in colour."""

from typing import ClassVar

from imagemint.training.recipes.pix2pix import Pix2pixRecipe


class ColorizeRecipe(Pix2pixRecipe):
    """Pix2pix on gray images: Isola et al. (2016), section 4.

    ``--dataset cifar10`` colours photos; their three halvings are ``--depth 3``.
    """

    name: ClassVar[str] = "colorize"
    task: ClassVar[str] = "gray"
