"""Trains a classifier and writes it to a directory."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from imagemint.training.classifier.networks import to_network
from imagemint.training.classifier.progress import Progress
from imagemint.training.classifier.recipes import ClassifierRecipe
from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.sufficiency import (
    count_classifier_steps,
    find_evaluation_shortages,
)
from imagemint.training.datasets.survey import find_doubts, summarise
from imagemint.training.errors import DatasetError
from imagemint.training.rng import ShuffledOrder, Stream, make_rng
from imagemint.training.whole_files import write_whole

_MOMENTUM = 0.9


def preview(
    recipe: ClassifierRecipe, train: LabelledImages, test: LabelledImages
) -> dict[str, Any]:
    """Returns a summary of the data, possible problems, and the number of steps, as JSON.

    Raises:
        DatasetError: there are not enough pictures for a single batch.
    """
    return {
        "data": summarise(train, test) | {"remarks": list(train.remarks)},
        "warnings": [*find_doubts(train), *find_evaluation_shortages(test)],
        "steps": count_classifier_steps(len(train), recipe.epochs, recipe.batch_size),
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
    """Trains a classifier, writes its weights and ``classifier.json``, and returns the latter.

    The test set is measured once, at the end. It does not decide anything.
    A training that was interrupted continues from its last epoch, if recipe and data are the same.

    Raises:
        DatasetError: the network does not take images of this shape, the test set has other
            classes, or there are not enough pictures for a single batch.
    """
    channels = train.images.shape[-1]
    if train.class_labels != test.class_labels:
        raise DatasetError(f"{train.name} and {test.name} have different classes")
    steps = count_classifier_steps(len(train), recipe.epochs, recipe.batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = recipe.make_network(len(train.class_labels), channels)
        if not model.takes(*train.images.shape[1:]):
            raise DatasetError(
                f"{train.name}: recipe {recipe.name} does not accept images of"
                f" {list(train.images.shape[1:])}"
            )
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this overload
        optimizer = _make_optimizer(recipe, model)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
        order = ShuffledOrder(len(train), recipe.seed)
        targets = model.make_targets(train)
        progress = Progress(out, model, optimizer, cycle, _compute_identity(recipe, train))
        begin = progress.restore()
        for step in tqdm(
            range(begin, steps), initial=begin, total=steps, unit="batches", disable=quiet
        ):
            batch = order.list_indices(step * recipe.batch_size, recipe.batch_size)
            x = augment(to_network(train.images[batch]), recipe, step)
            y = torch.from_numpy(targets[batch]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = model.compute_loss(x.to(device), y, recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            if has_ended(step + 1, len(train), recipe.batch_size):
                progress.save(step + 1)
    model.eval()
    _, predicted = model.judge(test.images)
    path = out / "classifier.safetensors"
    weights = save({name: t.cpu().contiguous() for name, t in model.state_dict().items()})
    write_whole(path, weights)
    metadata: dict[str, Any] = {
        "recipe": recipe.name,
        "options": recipe.model_dump(),
        "class_labels": list(train.class_labels),
        "image_channels": channels,
        "feature_layer": model.feature_layer,
        "trained_on": train.name,
        "tested_on": test.name,
        "test_accuracy": float((predicted == test.labels).mean()),
        "sha256": hashlib.sha256(weights).hexdigest(),
    } | model.report(test)
    # Last and whole: its presence says that the classifier is trained.
    write_whole(out / "classifier.json", (json.dumps(metadata, indent=2) + "\n").encode())
    progress.remove()
    return metadata


def _make_optimizer(recipe: ClassifierRecipe, model: nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, _MOMENTUM, weight_decay=decay, nesterov=True)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def _compute_identity(recipe: ClassifierRecipe, train: LabelledImages) -> str:
    """Returns a digest of everything that decides the weights."""
    content = [recipe.name, recipe.model_dump(mode="json"), train.sha256]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def has_ended(steps: int, images: int, batch_size: int) -> bool:
    """Returns whether an epoch ends after this number of steps."""
    return steps * batch_size // images > (steps - 1) * batch_size // images


def augment(x: Tensor, recipe: ClassifierRecipe, step: int) -> Tensor:
    """Returns a batch [N, C, H, W], randomly translated, filled at the edges, and mirrored."""
    rng = make_rng(recipe.seed, Stream.AUGMENTATION, step)
    if recipe.shift:
        count = len(x) if recipe.each_apart else 1
        offsets = rng.integers(0, 2 * recipe.shift + 1, size=(count, 2))
        x = _translate(x, recipe.shift, torch.from_numpy(offsets), recipe.background)
    if recipe.mirror:
        flipped = torch.from_numpy(rng.integers(0, 2, size=len(x))).bool()[:, None, None, None]
        x = torch.where(flipped, x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last)


def _translate(x: Tensor, most: int, offsets: Tensor, background: float) -> Tensor:
    """Returns the windows at ``offsets`` [1 or N, 2] of the batch, after adding a margin."""
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
