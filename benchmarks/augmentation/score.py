"""Measures how useful synthetic images are: train on synthetic, test on real.

For each seed the program trains two classifiers from scratch with the same recipe and the same
number of images, one on real and one on synthetic images, and tests both on the real test set. The
accuracy of the second is the classification accuracy score (Ravuri & Vinyals, "Classification
Accuracy Score for Conditional Generative Models", 2019). The synthetic images come from a server or
from the engine, in equal numbers of each class.

`--dataset mnist` learns digits from the shipped `mnist`. `--dataset avatars64` learns the heads of
people from the shipped `avatars`, and beside them the eleven attributes, such as glasses: for
synthetic people, those that the latent chose.

A run that was interrupted continues: run the same command again. On another machine, name its
record (`--record`): what it has is not measured again.

    python benchmarks/augmentation/score.py --out runs/score
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import people
import torch
from intervals import compute_mean_interval
from numpy.typing import NDArray
from options import add_record, make_parser, read_record, refuse_others

from imagemint.client import Cycle
from imagemint.client.image_source import ImageSource, ServerSource
from imagemint.client.prefetch import Prefetch
from imagemint.client.torch.shares import Block, Share
from imagemint.dataset.engine_source import EngineSource
from imagemint.training.classifier.recipes import (
    AvatarsClassifierRecipe,
    ClassifierRecipe,
    MnistClassifierRecipe,
)
from imagemint.training.classifier.training import train_classifier
from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.datasets.images import Attribute

BLOCK = 256
ARMS = ("real", "synthetic")
CLASS = "class"
"""Name of the figure that every classifier has, beside those of attributes."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What can be learnt from a data set.

    Attributes:
        model: the shipped model that learnt it.
        recipe: recipe of the classifiers.
        attributes: returns the attributes of synthetic images; None where there are none.
    """

    model: str
    recipe: type[ClassifierRecipe]
    attributes: Callable[[argparse.Namespace, int, NDArray[np.int64]], tuple[Attribute, ...]] | None


SUBJECTS = {
    "mnist": Subject("mnist", MnistClassifierRecipe, None),
    "avatars64": Subject("avatars", AvatarsClassifierRecipe, people.derive_attributes),
}


def make_recipe(options: argparse.Namespace, seed: int) -> ClassifierRecipe:
    """Returns the recipe of the classifiers of a seed."""
    explicit = {name: getattr(options, name) for name in ("width", "epochs")}
    known = {name: value for name, value in explicit.items() if value is not None}
    return SUBJECTS[options.dataset].recipe(seed=seed, **known)


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

    blocks = Share().list_blocks(count, BLOCK)
    images, labels = map(np.concatenate, zip(*Prefetch(read, blocks, 4), strict=True))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    name = f"{source.identity.model}@{source.identity.version}/{source.identity.seed}"
    return LabelledImages(name, images, labels, like.class_labels, digest)


def choose_images(data: LabelledImages, count: int, seed: int) -> LabelledImages:
    """Returns `count` of the images; all of them, or a draw by `seed`."""
    if count == len(data):
        return data
    if count > len(data):
        raise SystemExit(f"{data.name} has {len(data)} images, not {count}")
    rows = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
    digest = hashlib.sha256(data.sha256.encode() + rows.tobytes()).hexdigest()
    return LabelledImages(
        data.name,
        data.images[rows],
        data.labels[rows],
        data.class_labels,
        digest,
        attributes=tuple(attribute.select_rows(rows) for attribute in data.attributes),
    )


def gather(options: argparse.Namespace, arm: str, seed: int) -> LabelledImages:
    """Returns the training images of an arm."""
    real = load_dataset(options.dataset, "train", options.data)
    count = options.images or len(real)
    if arm == "real":
        return choose_images(real, count, seed)
    source = open_source(options, seed)
    train = draw_images(source, count, real)
    source.close()
    describe = SUBJECTS[options.dataset].attributes
    if describe is None:
        return train
    return dataclasses.replace(train, attributes=describe(options, seed, train.labels))


def measure(options: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Returns the accuracies on the real test set, from an earlier run if there is one.

    Returns:
        The accuracy of the class as `CLASS`, and that of each attribute by its name.
    """
    out = options.out / f"{arm}-{seed}"
    finished = out / "classifier.json"
    if not finished.is_file():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        test = load_dataset(options.dataset, "test", options.data)
        train_classifier(
            make_recipe(options, seed), gather(options, arm, seed), test, out, device=device
        )
    metadata = json.loads(finished.read_text())
    attributes: dict[str, float] = metadata.get("attribute_accuracy", {})
    return {CLASS: metadata["test_accuracy"], **attributes}


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
        mean, half = compute_mean_interval(
            [pair["synthetic"] - pair["real"] for pair in pairs.values()]
        )
        record |= {
            "mean": {arm: statistics.mean(pair[arm] for pair in pairs.values()) for arm in ARMS},
            "synthetic_minus_real": mean,
            "interval_95": half,
        }
    return record


def make_record(
    settings: dict[str, Any], found: dict[int, dict[str, dict[str, float]]], seeds: int
) -> dict[str, Any]:
    """Returns the whole record: that of the class, and those of attributes.

    Args:
        settings: the settings.
        found: accuracies by seed, arm and name.
        seeds: number of seeds that were wanted.
    """

    def of(name: str) -> dict[str, Any]:
        scores = {
            seed: {arm: figures[name] for arm, figures in arms.items()}
            for seed, arms in found.items()
        }
        return summarise(scores, seeds)

    names = next((list(figures) for arms in found.values() for figures in arms.values()), [])
    attributes = {name: of(name) for name in names if name != CLASS}
    for attribute in attributes.values():
        del attribute["not_run"]  # as for the class
    record = {"settings": settings, **of(CLASS)}
    return record | ({"attributes": attributes} if attributes else {})


def check_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings, which it keeps beside the results; refuses those of others."""
    settings = {name: getattr(options, name) for name in ("dataset", "model", "images")}
    recipe = make_recipe(options, 1).model_dump()
    settings |= {name: recipe[name] for name in ("width", "epochs")}
    path = options.out / "settings.json"
    options.out.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        refuse_others(options.out, json.loads(path.read_text()), settings)
    path.write_text(json.dumps(settings) + "\n")
    return settings


def read_figures(record: dict[str, Any]) -> dict[int, dict[str, dict[str, float]]]:
    """Returns the accuracies of a record, by seed, arm and name; {} for an empty record."""
    if not record:
        return {}
    attributes: dict[str, dict[str, Any]] = record.get("attributes", {})
    return {
        int(seed): {
            arm: {CLASS: accuracy}
            | {name: attribute["accuracy"][seed][arm] for name, attribute in attributes.items()}
            for arm, accuracy in arms.items()
        }
        for seed, arms in record["accuracy"].items()
    }


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = make_parser(__doc__, "folder of the results")
    parser.add_argument("--dataset", choices=[*SUBJECTS], default="mnist")
    parser.add_argument("--model", help="a model with its classes; default: the shipped one")
    parser.add_argument("--server", help="HOST:PORT; default: the engine, with the shipped model")
    parser.add_argument("--images", type=int, help="training images; default: as many as real ones")
    parser.add_argument("--width", type=int, help="channels of the classifier; default: its own")
    parser.add_argument("--epochs", type=int, help="default: those of its recipe, 8")
    add_record(parser, "scores.json")
    options = parser.parse_args()
    options.model = options.model or SUBJECTS[options.dataset].model
    return options


def main() -> None:
    """Trains what is missing, prints the scores, and writes the record after each."""
    options = parse_options()
    settings = check_settings(options)
    path: Path = options.record or options.out / "scores.json"
    found = read_figures(read_record(path, settings))
    for seed in range(1, options.seeds + 1):
        for arm in ARMS:
            if arm in found.get(seed, {}):
                continue
            if options.only_done and not (options.out / f"{arm}-{seed}/classifier.json").is_file():
                continue
            found.setdefault(seed, {})[arm] = figures = measure(options, arm, seed)
            scores = ", ".join(f"{name} {value:.2%}" for name, value in figures.items())
            print(f"seed {seed}, trained on {arm} images, right on real ones: {scores}", flush=True)
            record = make_record(settings, found, options.seeds)
            path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
