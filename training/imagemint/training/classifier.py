"""The project's own judges: convolutional classifiers, and the features they see by."""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.sufficiency import classifier_steps, evaluation_shortages
from imagemint.training.datasets.survey import doubts, summarise
from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.recipes.avatars_classifier import AvatarsClassifierRecipe
from imagemint.training.recipes.classifier import ClassifierRecipe
from imagemint.training.recipes.image_classifier import ImageClassifierRecipe
from imagemint.training.recipes.mnist_classifier import MnistClassifierRecipe
from imagemint.training.rng import ShuffledOrder, Stream, generator_at

RECIPES: dict[str, type[ClassifierRecipe]] = {
    MnistClassifierRecipe.name: MnistClassifierRecipe,
    ImageClassifierRecipe.name: ImageClassifierRecipe,
    AvatarsClassifierRecipe.name: AvatarsClassifierRecipe,
}
_FEATURES = 128
BATCH = 500
"""Images that a judge looks at in one pass."""


class Classifier(nn.Module, ABC):
    """A network that ends in features, dropout and logits.

    Attributes:
        feature_layer: the layer whose output is the feature space of distances: the last one before
            the logits.
    """

    feature_layer: ClassVar[str]
    features: nn.Module
    dropout: nn.Dropout
    logits: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [N, K] for ``x`` [N, C, H, W] in [-1, 1]."""
        logits: Tensor = self.logits(self.dropout(self.features(x)))
        return logits

    def targets(self, data: LabelledImages) -> NDArray[np.int64]:
        """Returns what the network learns of each image: its class, int64 [N]."""
        return data.labels

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the loss of images ``x`` [N, C, H, W] with rows ``y`` of `targets`."""
        return F.cross_entropy(self(x), y)

    def report(self, test: LabelledImages) -> dict[str, Any]:
        """Returns what else ``classifier.json`` says of the test set."""
        del test
        return {}

    @abstractmethod
    def takes(self, height: int, width: int, channels: int) -> bool:
        """Whether the network can look at images of this shape."""

    @torch.no_grad()
    def look(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns features float64 [N, d] and logits float64 [N, K] for uint8 [N, H, W, C]."""
        device = self.logits.weight.device
        features, logits = [], []
        for start in range(0, len(images), BATCH):
            phi = self.features(to_network(images[start : start + BATCH]).to(device))
            features.append(phi.double().cpu().numpy())
            logits.append(self.logits(phi).double().cpu().numpy())
        return np.concatenate(features), np.concatenate(logits)

    def judge(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns features float64 [N, d] and classes int64 [N] for uint8 [N, H, W, C]."""
        features, logits = self.look(images)
        return features, logits.argmax(axis=1)


class DigitClassifier(Classifier):
    """Convolutional classifier of 28x28 images with 128 penultimate features.

    Args:
        num_classes: number of classes K.
        image_channels: 1 for gray, 3 for RGB.
        dropout: share of the features dropped in training.
    """

    feature_layer = "features.relu"

    def __init__(self, num_classes: int, *, image_channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(image_channels, 32),
            *_block(32, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, _FEATURES),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(_FEATURES, num_classes)
        self._channels = image_channels

    def takes(self, height: int, width: int, channels: int) -> bool:
        """Whether images are 28x28, of the channels it was made for."""
        return (height, width, channels) == (28, 28, self._channels)


class ResidualClassifier(Classifier):
    """Small residual network; its features are the means of its last maps.

    He et al., "Identity Mappings in Deep Residual Networks" (2016): normalise, activate, convolve.

    Args:
        num_classes: number of classes K.
        image_channels: 1 for gray, 3 for RGB.
        width: channels at full resolution; four times as many are the features.
        blocks: residual blocks at each of three resolutions.
        dropout: share of the features dropped in training.
    """

    feature_layer = "features.pool"
    _SMALLEST = 8

    def __init__(
        self,
        num_classes: int,
        *,
        image_channels: int = 3,
        width: int = 32,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        stages = [
            _Residual(
                inputs=width * 2 ** max(stage - (block == 0), 0),
                outputs=width * 2**stage,
                stride=2 if stage and block == 0 else 1,
            )
            for stage in range(3)
            for block in range(blocks)
        ]
        self.features = nn.Sequential(
            nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
            *stages,
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(4 * width, num_classes)
        self._channels = image_channels

    def takes(self, height: int, width: int, channels: int) -> bool:
        """Whether images have the channels it was made for, and eight pixels a side."""
        return min(height, width) >= self._SMALLEST and channels == self._channels


class _Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))); x by a 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        out: Tensor = self.skip(x) + self.conv2(F.relu(self.norm2(h)))
        return out


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def to_network(images: NDArray[np.uint8]) -> Tensor:
    """Returns what a judge looks at, float32 [N, C, H, W] in [-1, 1], of uint8 [N, H, W, C]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x.contiguous(memory_format=torch.channels_last)


def preview(
    recipe: ClassifierRecipe, train: LabelledImages, test: LabelledImages
) -> dict[str, Any]:
    """Returns what the data hold, what looks wrong with them, and the number of steps, as JSON.

    Raises:
        DatasetError: not enough pictures for a single batch.
    """
    return {
        "data": summarise(train, test) | {"remarks": list(train.remarks)},
        "warnings": [*doubts(train), *evaluation_shortages(test)],
        "steps": classifier_steps(len(train), recipe.epochs, recipe.batch_size),
    }


def train_classifier(
    recipe: ClassifierRecipe,
    train: LabelledImages,
    test: LabelledImages,
    out: Path,
    *,
    device: torch.device,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains, writes ``classifier.safetensors`` and ``classifier.json``, and returns the latter.

    The test set plays no part in training and picks no checkpoint; it is measured once, at the end.

    Raises:
        DatasetError: the network cannot look at images of this shape, the test set has other
            classes, or the pictures are not enough for a single batch.
    """
    channels = train.images.shape[-1]
    if train.class_labels != test.class_labels:
        raise DatasetError(f"{train.name} and {test.name} have different classes")
    steps = classifier_steps(len(train), recipe.epochs, recipe.batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = recipe.network(len(train.class_labels), channels)
        if not model.takes(*train.images.shape[1:]):
            raise DatasetError(
                f"{train.name}: recipe {recipe.name} cannot look at images of"
                f" {list(train.images.shape[1:])}"
            )
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this overload
        optimizer = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
        order = ShuffledOrder(len(train), recipe.seed)
        targets = model.targets(train)
        for step in tqdm(range(steps), unit="batches", disable=quiet):
            batch = order.indices(step * recipe.batch_size, recipe.batch_size)
            x = augment(to_network(train.images[batch]), recipe, step)
            y = torch.from_numpy(targets[batch]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = model.loss(x.to(device), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    model.eval()
    _, predicted = model.judge(test.images)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "classifier.safetensors"
    save_file({name: t.cpu().contiguous() for name, t in model.state_dict().items()}, path)
    about: dict[str, Any] = {
        "recipe": recipe.name,
        "options": recipe.model_dump(),
        "class_labels": list(train.class_labels),
        "image_channels": channels,
        "feature_layer": model.feature_layer,
        "trained_on": train.name,
        "tested_on": test.name,
        "test_accuracy": float((predicted == test.labels).mean()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    } | model.report(test)
    (out / "classifier.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


def augment(x: Tensor, recipe: ClassifierRecipe, step: int) -> Tensor:
    """Returns a batch [N, C, H, W] translated, filled up, and mirrored, at random."""
    rng = generator_at(recipe.seed, Stream.AUGMENTATION, step)
    if recipe.shift:
        count = len(x) if recipe.each_apart else 1
        offsets = rng.integers(0, 2 * recipe.shift + 1, size=(count, 2))
        x = _translated(x, recipe.shift, torch.from_numpy(offsets), recipe.background)
    if recipe.mirror:
        turned = torch.from_numpy(rng.integers(0, 2, size=len(x))).bool()[:, None, None, None]
        x = torch.where(turned, x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last)


def _translated(x: Tensor, most: int, offsets: Tensor, background: float) -> Tensor:
    """Cuts windows at ``offsets`` [1 or N, 2] out of the batch with a margin around it."""
    height, width = x.shape[2:]
    padded = F.pad(x, (most, most, most, most), value=background)
    if len(offsets) == 1:
        top, left = offsets[0].tolist()
        return padded[:, :, top : top + height, left : left + width]
    rows = offsets[:, :1] + torch.arange(height)
    columns = offsets[:, 1:] + torch.arange(width)
    images = torch.arange(len(x))[:, None, None]
    return padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def load_classifier(directory: Path, device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """Returns a trained classifier in evaluation mode and its ``classifier.json``.

    Raises:
        CheckpointError: missing, damaged, or not the weights its JSON names.
    """
    path = directory / "classifier.safetensors"
    try:
        about: dict[str, Any] = json.loads((directory / "classifier.json").read_text())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        # What an evaluation will quote is asked for here, before hours of work.
        recorded, _, _ = about["sha256"], about["test_accuracy"], about["feature_layer"]
        if digest != recorded:
            raise CheckpointError(f"{path}: SHA-256 is {digest}, recorded is {recorded}")
        recipe = RECIPES[about["recipe"]].model_validate(about["options"])
        # Those written before there were others are of gray digits.
        model = recipe.network(len(about["class_labels"]), about.get("image_channels", 1))
        model.load_state_dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory} holds no classifier ({error}); `imagemint train mnist-classifier --out"
            f" {directory}` makes one"
        ) from error
    return model.to(device).eval(), about
