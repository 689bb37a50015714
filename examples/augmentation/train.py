"""Trains a classifier on few real images, topped up with synthetic ones from a server.

    python examples/augmentation/train.py --real digits.npz --model mnist --per-class 500

The file has `image`, uint8 [N, H, W, C], and `label`, int64 [N]. The program trains with and
without synthetic images, for the same number of steps, and prints the accuracy of both. It tests on
the images of --test, or else on a quarter of the real ones, which it then does not train on.
"""

import argparse
import itertools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from imagemint.client import Filter
from imagemint.client.torch import MixedSampler, ServerSource, SyntheticImages, mix


class RealImages(Dataset[tuple[torch.Tensor, int]]):
    """Real images with their classes, in the form of torchvision."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = images
        self.targets = labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.images[position], self.targets[position]


def load_images(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images uint8 [N, C, H, W] and their classes int64 [N]."""
    with np.load(path) as file:
        images = torch.from_numpy(file["image"].transpose(0, 3, 1, 2).copy())
        return images, torch.from_numpy(file["label"].astype(np.int64))


def load_splits(real: str, test: str | None) -> tuple[RealImages, TensorDataset]:
    """Returns the images to train with and those to test with."""
    images, labels = load_images(real)
    if test is not None:
        return RealImages(images, labels), TensorDataset(*load_images(test))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held, kept = order[: len(order) // 4], order[len(order) // 4 :]
    return RealImages(images[kept], labels[kept]), TensorDataset(images[held], labels[held])


def make_classifier(channels: int, num_classes: int) -> nn.Module:
    """Returns a small convolutional network."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(32 * 16, num_classes)),
    )


def train(
    classifier: nn.Module, loader: "DataLoader[tuple[torch.Tensor, int]]", steps: int
) -> None:
    """Trains with cross-entropy, in as many epochs as the steps take."""
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    step = epoch = 0
    while step < steps:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        for images, labels in itertools.islice(loader, steps - step):
            loss = nn.functional.cross_entropy(classifier(images / 127.5 - 1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        epoch += 1


def measure_accuracy(classifier: nn.Module, test: TensorDataset) -> float:
    """Returns the share of test images whose class is found."""
    images, labels = test.tensors
    with torch.no_grad():
        found = classifier(images / 127.5 - 1).argmax(1)
    return float((found == labels).float().mean())


def main() -> None:
    """Trains twice, and prints both accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", required=True, help="npz file of real images")
    parser.add_argument("--test", help="npz file of other real images, to test on")
    parser.add_argument("--server", default="127.0.0.1:8001", help="HOST:PORT")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--per-class", type=int, default=500, help="images of each class")
    parser.add_argument("--min-class-confidence", type=float, help="for a model with a critic")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    real, test = load_splits(options.real, options.test)
    confidence = options.min_class_confidence
    kept = None if confidence is None else Filter(min_class_confidence=confidence)
    source = ServerSource(options.server, options.model, seed=options.seed, image_filter=kept)
    mixed = mix(real, SyntheticImages(source, 0), per_class=options.per_class)
    runs: list[tuple[str, Dataset[Any], RandomSampler | MixedSampler]] = [
        ("real", real, RandomSampler(real)),
        ("real and synthetic", mixed, mixed.sampler()),
    ]
    for name, images, sampler in runs:
        torch.manual_seed(options.seed)
        classifier = make_classifier(real.images.shape[1], len(source.identity.class_labels))
        loader = DataLoader(images, batch_size=64, sampler=sampler)
        train(classifier, loader, options.steps)
        accuracy = measure_accuracy(classifier, test)
        print(f"{name}: {len(sampler)} images, accuracy {accuracy:.3f} on {len(test)} others")


if __name__ == "__main__":
    main()
