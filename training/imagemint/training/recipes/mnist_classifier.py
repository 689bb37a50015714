"""Recipe ``mnist-classifier``: the judge of MNIST generators."""

from typing import TYPE_CHECKING, ClassVar

from imagemint.training.recipes.classifier import ClassifierRecipe

if TYPE_CHECKING:
    from imagemint.training.classifier import DigitClassifier


class MnistClassifierRecipe(ClassifierRecipe):
    """Everything that decides the weights of the judge of digits."""

    name: ClassVar[str] = "mnist-classifier"
    dataset: ClassVar[str] = "mnist"
    each_apart: ClassVar[bool] = False

    def network(self, num_classes: int, image_channels: int) -> "DigitClassifier":
        """Returns the freshly initialised network, which takes 28x28 images."""
        from imagemint.training.classifier import (  # noqa: PLC0415 - options must load without torch
            DigitClassifier,
        )

        return DigitClassifier(num_classes, image_channels=image_channels, dropout=self.dropout)
