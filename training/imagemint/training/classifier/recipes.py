"""The options of each classifier."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from imagemint.training.classifier.attributes import AttributeClassifier
from imagemint.training.classifier.networks import (
    Classifier,
    DigitClassifier,
    PooledClassifier,
    ResidualClassifier,
)
from imagemint.training.datasets.avatars import VALUES
from imagemint.training.recipes import CLASSIFIER_TABLE, Recipes


class ClassifierRecipe(BaseModel, ABC):
    """Everything that decides a classifier's weights, besides the data and the code."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: ClassVar[str]
    """Its name on the command line, a key of the table in `recipes/__init__.py`."""
    each_apart: ClassVar[bool] = True
    """Whether each image of a batch is moved by an offset of its own."""
    background: ClassVar[float] = -1.0
    """What comes in at the edges of a moved image: -1 is black, 1 white."""
    values_before: ClassVar[dict[str, Any]] = {}
    """Values that options have in old files which do not name them, where not the default."""

    dataset: str
    """Data set by name, or a folder of pictures or Parquet files."""
    size: int | None = Field(default=None, ge=8)
    """Height and width that pictures are brought to. Default: as stored."""
    epochs: int = Field(default=8, ge=1)
    """Passes over the training set."""
    batch_size: int = Field(default=128, ge=2)
    """Images in one step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """AdamW, or stochastic gradient descent with Nesterov's momentum."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of the learning rate, which goes through one cycle."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the weights: apart from the gradient (AdamW), or as a part of it (SGD)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes (Szegedy et al., 2016)."""
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
    def make_network(self, num_classes: int, image_channels: int) -> Classifier:
        """Returns the freshly initialised network."""


class MnistClassifierRecipe(ClassifierRecipe):
    """Everything that decides the weights of the judge of digits."""

    name: ClassVar[str] = "mnist-classifier"
    each_apart: ClassVar[bool] = False

    dataset: str = "mnist"
    """Data set by name, or a folder of pictures or Parquet files, of 28x28 pixels."""
    architecture: Literal["plain", "residual"] = "plain"
    """Plain convolutions with a dense layer of 128 features, or a residual network whose features
    are the means of its 128 last maps. A generator that is good under both judges is not fitted to
    one of them."""
    width: int = Field(default=32, ge=1)
    """Channels at full size. 16 take a third of the time."""

    def make_network(self, num_classes: int, image_channels: int) -> Classifier:
        """Returns the freshly initialised network; the plain one takes 28x28 images."""
        kind = DigitClassifier if self.architecture == "plain" else ResidualClassifier
        return kind(
            num_classes, image_channels=image_channels, width=self.width, dropout=self.dropout
        )


class ImageClassifierRecipe(ClassifierRecipe):
    """Everything that decides the weights of a judge of pictures of any size."""

    name: ClassVar[str] = "image-classifier"

    dataset: str = "cifar10"
    """Data set by name, or a folder of pictures or Parquet files."""
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

    def make_network(self, num_classes: int, image_channels: int) -> Classifier:
        """Returns the freshly initialised network, which takes images of any size from 8x8."""
        return ResidualClassifier(
            num_classes,
            image_channels=image_channels,
            width=self.width,
            blocks=self.blocks,
            dropout=self.dropout,
        )


class Cifar10ClassifierRecipe(ImageClassifierRecipe):
    """Everything that decides the weights of the judge of CIFAR-10.

    A network with maximum pooling (Jordan, 2024), trained along one cycle of the learning rate
    (Smith & Topin, "Super-Convergence", 2017) on mirrored and shifted images. In bfloat16 an epoch
    takes about two minutes of one core that computes in it. The wide residual network (Zagoruyko &
    Komodakis, 2016) takes twice as long for an epoch, and learns less in it.
    """

    name: ClassVar[str] = "cifar10-classifier"
    values_before: ClassVar[dict[str, Any]] = {"architecture": "residual", "optimizer": "adam"}

    architecture: Literal["pooled", "residual"] = "pooled"
    """Convolutions with maximum pooling, or a wide residual network. A generator that is good under
    both judges is not fitted to one of them."""
    width: int = Field(default=64, ge=1)
    """Channels at half the resolution, doubled twice; or at full resolution, of the residual
    network, for which 32 suffice."""
    blocks: int = Field(default=2, ge=1)
    """Residual blocks at each of three resolutions."""
    epochs: int = Field(default=20, ge=1)
    """Passes over the training set; the residual network needs some 30."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """AdamW, or stochastic gradient descent with Nesterov's momentum."""
    learning_rate: float = Field(default=0.15, gt=0)
    """Peak of the learning rate, which goes through one cycle."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Decay of the weights: apart from the gradient (AdamW), or as a part of it (SGD)."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of each label that is spread over all classes (Szegedy et al., 2016)."""
    shift: int = Field(default=3, ge=0)
    """Largest random translation, in pixels."""

    def make_network(self, num_classes: int, image_channels: int) -> Classifier:
        """Returns the freshly initialised network."""
        if self.architecture == "residual":
            return super().make_network(num_classes, image_channels)
        return PooledClassifier(
            num_classes, image_channels=image_channels, width=self.width, dropout=self.dropout
        )


class AvatarsClassifierRecipe(ClassifierRecipe):
    """Everything that decides the weights of the judge of cartoon people."""

    name: ClassVar[str] = "avatars-classifier"
    background: ClassVar[float] = 1.0

    dataset: str = "avatars64"
    """Data set by name, or where it is; its pictures have the attributes of `avatars64`."""

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

    def make_network(self, num_classes: int, image_channels: int) -> AttributeClassifier:
        """Returns the freshly initialised network, which takes 64x64 images."""
        return AttributeClassifier(
            num_classes,
            {name: len(values) for name, values in VALUES.items()},
            image_channels=image_channels,
            width=self.width,
            dropout=self.dropout,
        )


CLASSIFIER_RECIPES: Recipes[type[ClassifierRecipe]] = Recipes(CLASSIFIER_TABLE)
"""The class of every recipe of a classifier, by name."""
