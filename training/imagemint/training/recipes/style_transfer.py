"""Recipe ``style-transfer``: a fast network that gives any image the style of one picture."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor, nn

from imagemint.training.datasets.pictures import decode_picture
from imagemint.training.datasets.translations import SourceForm
from imagemint.training.errors import DatasetError
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.style import StyleOptions, make_style_terms
from imagemint.training.losses.translation import TranslationLoss
from imagemint.training.networks.resnet import ResnetGenerator, check_quarters
from imagemint.training.recipes.translation import ImageShape, TranslationRecipe

_PERIODS = (7, 11, 16)


class StyleTransferRecipe(TranslationRecipe):
    """Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (2016).

    A feed-forward network learns what `imagemint stylize` finds by optimisation for each image.
    Instance normalisation is as in Ulyanov et al. (2016). There is no discriminator unless you set
    ``--adversarial-weight``.
    """

    name: ClassVar[str] = "style-transfer"
    task: ClassVar[str] = "images"

    values_before: ClassVar[dict[str, Any]] = {"tiles": 1}

    style: Path | None = None
    """Picture of the style. Default: a pattern of coloured waves."""
    images: int = Field(default=32_000, ge=1)
    """Sources shown to G, counted with repetition: the length of the run."""
    batch_size: int = Field(default=8, ge=2)
    """Images in one step of either network."""
    base_channels: int = Field(default=16, ge=1)
    """Channels of the network at full size."""
    blocks: int = Field(default=3, ge=1)
    """Residual blocks of the network."""
    content_weight: float = Field(default=1.0, ge=0)
    """Weight of the difference from the content, in the features of the classifier of --judge."""
    style_weight: float = Field(default=10.0, ge=0)
    """Weight of the difference of Gram matrices."""
    tiles: int = Field(default=4, ge=1)
    """Tiles of the image in each direction that have Gram matrices of their own, so that the style
    is everywhere. 1: one for the whole image."""
    variation_weight: float = Field(default=1.0, ge=0)
    """Weight of the total variation."""
    adversarial_weight: float = Field(default=0.0, ge=0)
    """Weight of the adversarial loss of G; 0: there is no discriminator, the other losses decide
    alone."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator, and of the discriminator unless that has its own."""

    @field_validator("style")
    @classmethod
    def _find_from_anywhere(cls, style: Path | None) -> Path | None:
        """Returns an absolute path, because the resume may run in another directory."""
        return None if style is None else style.expanduser().absolute()

    @property
    def needs_judge(self) -> bool:
        """True: style and content are compared in the features of a classifier."""
        return True

    def make_generator(self, form: SourceForm, target: ImageShape) -> nn.Module:
        """Returns a residual network that changes the image.

        Raises:
            DatasetError: the images cannot be halved twice.
        """
        check_quarters(form.height, form.width)
        return ResnetGenerator(
            form.depth,
            target[2],
            base_channels=self.base_channels,
            blocks=self.blocks,
            residual=True,
        )

    def make_discriminators(self, form: SourceForm, target: ImageShape) -> nn.ModuleDict:
        """Returns a discriminator of patches, which is not trained by default."""
        judge = self.make_patch_discriminator(target[2], *target[:2])
        return nn.ModuleDict({"target": judge})

    def make_translation_loss(
        self, form: SourceForm, target: ImageShape, judge: nn.Sequential | None
    ) -> TranslationLoss:
        """Returns the losses of content, style and total variation.

        Raises:
            DatasetError: the picture of the style cannot be read.
        """
        assert judge is not None  # noqa: S101 - needs_judge
        style = read_style(self.style, max(target[:2]), target[2])
        options = StyleOptions(
            self.content_weight, self.style_weight, self.variation_weight, self.tiles
        )
        terms = make_style_terms(judge, target, style.to(next(judge.parameters()).device), options)
        return TranslationLoss(
            ADVERSARIAL_LOSSES[self.objective],
            terms=terms,
            weight=self.adversarial_weight,
            after=self.adversarial_after,
        )


def read_style(path: Path | None, size: int, channels: int) -> Tensor:
    """Returns a picture of a style [1, C, H, W] in [-1, 1], its shorter side scaled to ``size``.

    Args:
        path: path of the picture; None for a pattern of coloured waves.
        size: in pixels.
        channels: 1 or 3.

    Raises:
        DatasetError: it cannot be read.
    """
    if path is None:
        picture = Image.fromarray(draw_waves(size))
    else:
        try:
            picture = decode_picture(path.read_bytes())
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}") from error
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error
        scale = size / min(picture.size)
        wide, tall = (max(round(side * scale), size) for side in picture.size)
        picture = picture.resize((wide, tall), Image.Resampling.BICUBIC)
    levels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.float32)
    x = torch.from_numpy(levels.reshape(*levels.shape[:2], channels)).permute(2, 0, 1)
    return x.div(127.5).sub(1)[None]


def draw_waves(size: int) -> np.ndarray:
    """Returns a pattern of coloured waves: uint8 [size, size, 3]."""
    y, x = np.mgrid[:size, :size]
    bent = x + 4 * np.sin(y / 5)
    waves = [np.sin(2 * np.pi * bent / period + number) for number, period in enumerate(_PERIODS)]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=2)).astype(np.uint8)
