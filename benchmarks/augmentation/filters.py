"""Measures what filters keep, and what they do to the images.

For each seed the program draws `--images` images of a model with a critic, the classes in turn:
without a condition, and with each of `CONDITIONS` that the critic has a score for. It records which
share of the candidates passes, and measures the images under each judge as `imagemint evaluate`
does, beside as many real training images. The classifier of the critic favours what it chose
itself, so name another judge, too.

A run that was interrupted continues: run the same command again.

    python benchmarks/augmentation/filters.py --classifier runs/judge --out runs/filters
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import compute_mean_interval
from options import make_parser, refuse_others

from imagemint.client import Filter
from imagemint.client.torch.shares import Share
from imagemint.dataset.engine_source import EngineSource
from imagemint.training.classifier.trained import load_classifier
from imagemint.training.datasets import load_dataset
from imagemint.training.datasets.images import Split
from imagemint.training.evaluation.files import UNCONDITIONAL
from imagemint.training.metrics import coverage, frechet_distance, measure_neighbourhoods

NONE = "none"
SPLITS: tuple[Split, Split] = ("test", "train")
CONDITIONS = {
    NONE: Filter(),
    "--min-class-confidence 0.9": Filter(min_class_confidence=0.9),
    "--min-class-confidence 0.99": Filter(min_class_confidence=0.99),
    "--min-class-confidence 0.999": Filter(min_class_confidence=0.999),
    "--rejection-sampling": Filter(rejection_sampling=True, max_tries=1_000),
    "--min-training-distance 0.3": Filter(min_training_distance=0.3),
    "--min-training-distance 0.5": Filter(min_training_distance=0.5),
}
PASSED = "passed"
"""Name of the share of candidates that pass, beside the metrics."""
_NEIGHBOURS = 5
_MOST_NEIGHBOURS = 3_000  # images of each kind whose neighbourhoods are compared
_BLOCK = 256
_CPU = torch.device("cpu")


def open_source(options: argparse.Namespace, seed: int, kept: Filter) -> EngineSource:
    """Returns the images of a seed that pass a filter."""
    return EngineSource(
        options.model, repository=options.repository, seed=seed, classes=[], image_filter=kept
    )


def choose_conditions(options: argparse.Namespace) -> list[str]:
    """Returns the conditions whose scores the critic has."""
    source = open_source(options, 0, CONDITIONS[NONE])
    scores = source.read(0, 1).scores
    source.close()
    known = scores.by_name() if scores else {}
    return [name for name, kept in CONDITIONS.items() if {*kept.needs} <= {*known}]


def draw(options: argparse.Namespace, name: str, seed: int, path: Path) -> float:
    """Writes the images of a condition as an npz, and returns the share of candidates that pass."""
    source = open_source(options, seed, CONDITIONS[name])
    count, rejected, images, classes = options.images, 0, [], []
    for block in Share().list_blocks(count, _BLOCK):
        part = source.read(block.start, block.size)
        images.append(part.image)
        none = np.full(len(part), UNCONDITIONAL)
        classes.append(none if part.class_id is None else part.class_id)
        rejected += int(part.scores.rejected.sum()) if part.scores else 0
    source.close()
    np.savez(path, image=np.concatenate(images), class_id=np.concatenate(classes))
    return float(count / (count + rejected))


class Judge:
    """A classifier, with the features of real images.

    Args:
        directory: of the classifier.
        options: the options of the program.
    """

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.name = directory.name
        self._classifier, self.metadata = load_classifier(directory, _CPU)
        rng = np.random.default_rng(0)  # the first test digits are easier than the others
        test, train = (load_dataset(options.dataset, split, options.data) for split in SPLITS)
        rows, others = (rng.permutation(len(each))[: options.images] for each in (test, train))
        self._real, _ = self._classifier.judge(test.images[rows])
        self.floor = self.measure(train.images[others], train.labels[others])

    def measure(self, images: Any, classes: Any) -> dict[str, float]:  # noqa: ANN401 - arrays
        """Returns the figures of images uint8 [N, H, W, C] that should have classes int64 [N]."""
        features, predicted = self._classifier.judge(images)
        found = {f"class_accuracy@{self.name}": float((predicted == classes).mean())}
        count = min(len(features), len(self._real))
        found[f"frechet_distance@{self.name}"] = frechet_distance(
            self._real[:count], features[:count]
        )
        count = min(count, _MOST_NEIGHBOURS)
        real, fake = self._real[:count], features[:count]
        neighbourhoods = measure_neighbourhoods(real, fake, _NEIGHBOURS)
        found[f"coverage@{self.name}"] = coverage(real, fake, _NEIGHBOURS)
        found[f"precision@{self.name}"] = neighbourhoods.precision
        found[f"recall@{self.name}"] = neighbourhoods.recall
        return found


def measure(
    options: argparse.Namespace, judges: Sequence[Judge], name: str, seed: int
) -> dict[str, float]:
    """Returns the share `PASSED` and the figures of a condition, from an earlier run if any."""
    finished = options.out / f"{name.replace(' ', '')}-{seed}.json"
    if not finished.is_file():
        path = options.out / "images.npz"
        found = {PASSED: draw(options, name, seed, path)}
        with np.load(path) as arrays:
            for judge in judges:
                found |= judge.measure(arrays["image"], arrays["class_id"])
        path.unlink()
        finished.write_text(json.dumps(found, indent=2) + "\n")
    return dict(json.loads(finished.read_text()))


def summarise(found: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    """Returns the mean of each metric, and its paired difference from images without a condition.

    Args:
        found: figures by condition, seed and metric.
    """
    summary: dict[str, Any] = {}
    for name, by_seed in found.items():
        summary[name] = {"seeds": len(by_seed)}
        for metric in next(iter(by_seed.values()), {}):
            values = {seed: each[metric] for seed, each in by_seed.items()}
            summary[name][metric] = {"mean": statistics.mean(values.values())}
            paired = [seed for seed in values if seed in found[NONE] and name != NONE]
            if paired:
                mean, half = compute_mean_interval(
                    [values[seed] - found[NONE][seed][metric] for seed in paired]
                )
                summary[name][metric] |= {"difference": mean, "interval_95": half}
    return summary


def main() -> None:
    """Measures what is missing, and writes filters.json after each condition."""
    parser = make_parser(__doc__, "folder of the results")
    parser.add_argument("--model", default="digits", help="a model with a critic")
    parser.add_argument("--repository", type=Path, help="default: the shipped models")
    parser.add_argument("--dataset", default="mnist", help="the real images")
    parser.add_argument("--classifier", type=Path, nargs="+", required=True, help="the judges")
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("model", "dataset", "images")}
    settings["classifier"] = [each.name for each in options.classifier]
    record = options.out / "filters.json"
    if record.is_file():
        refuse_others(record, json.loads(record.read_text())["settings"], settings)
    judges = [Judge(each, options) for each in options.classifier]
    floor = {name: value for judge in judges for name, value in judge.floor.items()}
    accuracy = {judge.name: judge.metadata["test_accuracy"] for judge in judges}
    header = {"settings": settings, "test_accuracy": accuracy, "real_images": floor}
    found: dict[str, dict[int, dict[str, float]]] = {
        name: {} for name in choose_conditions(options)
    }
    for seed in range(options.seeds):
        for name, by_seed in found.items():
            print(f"seed {seed}, {name}", flush=True)
            by_seed[seed] = measure(options, judges, name, seed)
            content = header | {"figures": found, "summary": summarise(found)}
            record.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
