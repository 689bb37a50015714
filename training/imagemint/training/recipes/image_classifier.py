"""Recipe ``image-classifier``: a small residual network for any data set, CIFAR-10 by default."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from imagemint.training.recipes.classifier import ClassifierRecipe

if TYPE_CHECKING:
    from imagemint.training.classifier import ResidualClassifier


class ImageClassifierRecipe(ClassifierRecipe):
    """Everything that decides the weights of a judge of pictures of any size."""

    name: ClassVar[str] = "image-classifier"

    dataset: str = "cifar10"
    """Data set by name, or a folder of pictures or Parquet files."""
    size: int | None = Field(default=None, ge=8)
    """Height and width that pictures are brought to; absent, as stored."""
    width: int = Field(default=32, ge=1)
    """Channels at full resolution; doubled twice. 64 and 30 epochs, where there is a GPU."""
    blocks: int = Field(default=1, ge=1)
    """Residual blocks at each of three resolutions."""
    epochs: int = Field(default=12, ge=1)
    """Passes over the training set."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of the weights, apart from the gradient (AdamW)."""
    shift: int = Field(default=4, ge=0)
    """Largest random translation, in pixels."""
    mirror: bool = True
    """Whether images are mirrored, left to right, half the time."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of features dropped in training."""

    def network(self, num_classes: int, image_channels: int) -> "ResidualClassifier":
        """Returns the freshly initialised network, which takes images of any size from 8x8."""
        from imagemint.training.classifier import (  # noqa: PLC0415 - options must load without torch
            ResidualClassifier,
        )

        return ResidualClassifier(
            num_classes,
            image_channels=image_channels,
            width=self.width,
            blocks=self.blocks,
            dropout=self.dropout,
        )
