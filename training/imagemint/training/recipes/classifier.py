"""What the recipes of all classifiers have in common."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from imagemint.training.classifier import Classifier


class ClassifierRecipe(BaseModel, ABC):
    """Everything that decides a classifier's weights, besides the data and the code."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: ClassVar[str]
    each_apart: ClassVar[bool] = True
    """Whether each image of a batch is moved by an offset of its own."""
    background: ClassVar[float] = -1.0
    """What comes in at the edges of a moved image: -1 is black, 1 white."""

    epochs: int = Field(default=8, ge=1)
    """Passes over the training set."""
    batch_size: int = Field(default=128, ge=2)
    """Images in one step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of the one-cycle step size of Adam."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the weights, apart from the gradient (AdamW)."""
    shift: int = Field(default=2, ge=0)
    """Largest random translation, in pixels."""
    mirror: bool = False
    """Whether images are mirrored, left to right, half the time."""
    dropout: float = Field(default=0.4, ge=0, lt=1)
    """Share of features dropped in training."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of convolutions and dense layers in training; weights are float32 in any case."""
    seed: int = Field(default=1, ge=0, lt=2**64)
    """Seed of the initial weights, the order and the translations."""

    @abstractmethod
    def network(self, num_classes: int, image_channels: int) -> "Classifier":
        """Returns the freshly initialised network."""
