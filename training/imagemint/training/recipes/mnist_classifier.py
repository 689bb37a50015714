"""Recipe ``mnist-classifier``: the judge of MNIST generators."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class MnistClassifierRecipe(BaseModel):
    """Everything that decides the classifier's weights, besides the data and the code."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: ClassVar[str] = "mnist-classifier"
    dataset: ClassVar[str] = "mnist"

    epochs: int = Field(default=8, ge=1)
    """Passes over the training set."""
    batch_size: int = Field(default=128, ge=2)
    """Images in one step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of the one-cycle step size of Adam."""
    shift: int = Field(default=2, ge=0)
    """Largest random translation, in pixels."""
    dropout: float = Field(default=0.4, ge=0, lt=1)
    """Share of features dropped in training."""
    seed: int = Field(default=1, ge=0, lt=2**64)
    """Seed of the initial weights, the order and the translations."""
