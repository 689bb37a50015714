"""Measures how useful synthetic images are: train on synthetic, test on real.

For each seed the program trains two classifiers from scratch with the same recipe and the same
number of images, one on real and one on synthetic images, and tests both on the real test set. The
accuracy of the second is the classification accuracy score (Ravuri & Vinyals, "Classification
Accuracy Score for Conditional Generative Models", 2019). The synthetic images come from a server or
from the engine, in equal numbers of each class.

A run that was interrupted continues: run the same command again.

    python benchmarks/augmentation/score.py --out runs/score
"""

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import mean_interval

from imagemint.client import Cycle
from imagemint.client.image_source import ImageSource, ServerSource
from imagemint.client.prefetch import Prefetch
from imagemint.client.torch.shares import Block, Share
from imagemint.dataset.engine_source import EngineSource
from imagemint.training.classifier.recipes import MnistClassifierRecipe
from imagemint.training.classifier.training import train_classifier
from imagemint.training.datasets import LabelledImages, load_dataset

BLOCK = 256
ARMS = ("real", "synthetic")


def open_source(options: argparse.Namespace, seed: int) -> ImageSource:
    """Returns the source of the synthetic images of a seed."""
    if options.server:
        return ServerSource(options.server, options.model, seed=seed, condition=Cycle())
    return EngineSource(options.model, seed=seed, classes=[])


def draw_images(source: ImageSource, count: int, like: LabelledImages) -> LabelledImages:
    """Returns `count` synthetic images, in equal numbers of each class of `like`."""
    if source.identity.class_labels != like.class_labels:
        raise SystemExit(f"{source.identity.model} and {like.name} have different classes")

    def read(block: Block) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        images = source.read(block.start, block.size)
        if images.class_id is None:
            raise SystemExit(f"{source.identity.model} has no classes")
        return images.image, images.class_id

    blocks = Share().blocks(count, BLOCK)
    images, labels = map(np.concatenate, zip(*Prefetch(read, blocks, 4), strict=True))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    name = f"{source.identity.model}@{source.identity.version}/{source.identity.seed}"
    return LabelledImages(name, images, labels, like.class_labels, digest)


def choose_real(data: LabelledImages, count: int, seed: int) -> LabelledImages:
    """Returns `count` real images; all of them, or a draw by `seed`."""
    if count == len(data):
        return data
    if count > len(data):
        raise SystemExit(f"{data.name} has {len(data)} images, not {count}")
    rows = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
    digest = hashlib.sha256(data.sha256.encode() + rows.tobytes()).hexdigest()
    return dataclasses.replace(
        data, images=data.images[rows], labels=data.labels[rows], sha256=digest
    )


def measure(options: argparse.Namespace, arm: str, seed: int) -> float:
    """Returns the accuracy of one arm on the real test set, from an earlier run if there is one."""
    out = options.out / f"{arm}-{seed}"
    finished = out / "classifier.json"
    recipe = MnistClassifierRecipe(width=options.width, epochs=options.epochs, seed=seed)
    if not finished.is_file():
        real = load_dataset("mnist", "train", options.data)
        count = options.images or len(real)
        if arm == "real":
            train = choose_real(real, count, seed)
        else:
            source = open_source(options, seed)
            train = draw_images(source, count, real)
            source.close()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train_classifier(
            recipe, train, load_dataset("mnist", "test", options.data), out, device=device
        )
    return float(json.loads(finished.read_text())["test_accuracy"])


def summarise(scores: dict[int, dict[str, float]], seeds: int) -> dict[str, Any]:
    """Returns the record: means, and the paired difference with its 95 % interval of Student's t.

    Args:
        scores: accuracies by seed and arm, as far as they were measured.
        seeds: number of seeds that were wanted.
    """
    pairs = {seed: found for seed, found in scores.items() if found.keys() >= {*ARMS}}
    record: dict[str, Any] = {
        "accuracy": scores,
        "not_run": [
            f"{arm}, seed {seed}"
            for seed in range(1, seeds + 1)
            for arm in ARMS
            if arm not in scores.get(seed, {})
        ],
    }
    if pairs:
        mean, half = mean_interval([each["synthetic"] - each["real"] for each in pairs.values()])
        record |= {
            "mean": {arm: statistics.mean(each[arm] for each in pairs.values()) for arm in ARMS},
            "synthetic_minus_real": mean,
            "interval_95": half,
        }
    return record


def check_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings, which it keeps beside the results; refuses those of others."""
    names = ("model", "images", "width", "epochs")
    settings = {name: getattr(options, name) for name in names}
    path = options.out / "settings.json"
    options.out.mkdir(parents=True, exist_ok=True)
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{options.out} has results of other settings: {path.read_text()}")
    path.write_text(json.dumps(settings) + "\n")
    return settings


def main() -> None:
    """Trains what is missing, prints the scores, and writes scores.json after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", type=Path, default=os.environ.get("IMAGEMINT_DATA"))
    parser.add_argument("--model", default="mnist", help="a model with the classes of MNIST")
    parser.add_argument("--server", help="HOST:PORT; default: the engine, with the shipped model")
    parser.add_argument("--images", type=int, help="training images; default: all 60,000")
    parser.add_argument("--width", type=int, default=32, help="channels of the classifier")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only-done", action="store_true", help="train nothing; write the record of what is done"
    )
    options = parser.parse_args()
    settings = check_settings(options)
    scores: dict[int, dict[str, float]] = {}
    for seed in range(1, options.seeds + 1):
        for arm in ARMS:
            if options.only_done and not (options.out / f"{arm}-{seed}/classifier.json").is_file():
                continue
            scores.setdefault(seed, {})[arm] = accuracy = measure(options, arm, seed)
            print(f"seed {seed}, trained on {arm} images: {accuracy:.2%} of the real test set")
            record = {"settings": settings, **summarise(scores, options.seeds)}
            (options.out / "scores.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
