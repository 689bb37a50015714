"""The project's own judge of MNIST: a small convolutional classifier and its features."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import CheckpointError
from imagemint.training.randomness import ShuffledOrder, Stream, generator_at
from imagemint.training.recipes.mnist_classifier import MnistClassifierRecipe

# The layer whose output is the feature space of distances: the last one before the logits.
FEATURE_LAYER = "features.relu"
_FEATURES = 128


class Classifier(nn.Module):
    """Convolutional classifier of 28x28 gray images with 128 penultimate features.

    Args:
        num_classes: number of classes K.
        dropout: share of the features dropped in training.
    """

    def __init__(self, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 32),
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

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [N, K] for ``x`` [N, 1, 28, 28] in [-1, 1]."""
        logits: Tensor = self.logits(self.dropout(self.features(x)))
        return logits

    @torch.no_grad()
    def judge(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns features float64 [N, 128] and classes int64 [N] for uint8 [N, H, W, 1]."""
        device = self.logits.weight.device
        features, classes = [], []
        for start in range(0, len(images), 500):
            phi = self.features(_to_network(images[start : start + 500]).to(device))
            features.append(phi.double().cpu().numpy())
            classes.append(self.logits(phi).argmax(dim=1).cpu().numpy())
        return np.concatenate(features), np.concatenate(classes)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def _to_network(images: NDArray[np.uint8]) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return x.contiguous(memory_format=torch.channels_last)


def train_classifier(
    recipe: MnistClassifierRecipe,
    train: LabelledImages,
    test: LabelledImages,
    out: Path,
    *,
    device: torch.device,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains, writes ``classifier.safetensors`` and ``classifier.json``, and returns the latter.

    The test set plays no part in training and picks no checkpoint; it is measured once, at the end.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = Classifier(len(train.class_labels), dropout=recipe.dropout)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this overload
        steps = recipe.epochs * len(train) // recipe.batch_size
        optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
        order = ShuffledOrder(len(train), recipe.seed)
        for step in tqdm(range(steps), unit="batches", disable=quiet):
            batch = order.indices(step * recipe.batch_size, recipe.batch_size)
            x = _shifted(_to_network(train.images[batch]), recipe.shift, recipe.seed, step)
            y = torch.from_numpy(train.labels[batch]).to(device)
            loss = F.cross_entropy(model(x.to(device)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    model.eval()
    _, predicted = model.judge(test.images)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "classifier.safetensors"
    save_file({name: t.cpu().contiguous() for name, t in model.state_dict().items()}, path)
    about = {
        "recipe": recipe.name,
        "options": recipe.model_dump(),
        "class_labels": list(train.class_labels),
        "feature_layer": FEATURE_LAYER,
        "trained_on": train.name,
        "tested_on": test.name,
        "test_accuracy": float((predicted == test.labels).mean()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (out / "classifier.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


def _shifted(x: Tensor, most: int, seed: int, step: int) -> Tensor:
    """Translates a batch by one random offset, filling with black."""
    if most == 0:
        return x
    offsets = generator_at(seed, Stream.AUGMENTATION, step).integers(0, 2 * most + 1, size=2)
    top, left = int(offsets[0]), int(offsets[1])
    padded = F.pad(x, (most, most, most, most), value=-1.0)
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]


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
        model = Classifier(len(about["class_labels"]))
        model.load_state_dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory} holds no classifier ({error}); `imagemint train mnist-classifier --out"
            f" {directory}` makes one"
        ) from error
    return model.to(device).eval(), about
