"""Recipe ``avatars-classifier``: the judge of generators of cartoon people."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from imagemint.training.recipes.classifier import ClassifierRecipe

if TYPE_CHECKING:
    from imagemint.training.attribute_classifier import AttributeClassifier


class AvatarsClassifierRecipe(ClassifierRecipe):
    """Everything that decides the weights of the judge of cartoon people."""

    name: ClassVar[str] = "avatars-classifier"
    dataset: ClassVar[str] = "avatars64"
    background: ClassVar[float] = 1.0

    width: int = Field(default=48, ge=1)
    """Channels at half the size; doubled twice."""
    batch_size: int = Field(default=64, ge=2)
    """Images in one step."""
    shift: int = Field(default=1, ge=0)
    """Largest random translation, in pixels."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay of the weights, apart from the gradient (AdamW)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of features dropped in training."""

    def network(self, num_classes: int, image_channels: int) -> "AttributeClassifier":
        """Returns the freshly initialised network, which takes 64x64 images."""
        from imagemint.training.attribute_classifier import AttributeClassifier
        from imagemint.training.datasets.avatars import VALUES

        return AttributeClassifier(
            num_classes,
            {name: len(values) for name, values in VALUES.items()},
            image_channels=image_channels,
            width=self.width,
            dropout=self.dropout,
        )
