"""Measures what filters keep, and what they do to the images.

For each seed the program draws `--images` images of a model with a critic, the classes in turn:
without a condition, and with each of `CONDITIONS` that the critic has a score for. It records which
share of the candidates passes, and measures the images as `imagemint evaluate` does, under each
`--classifier`. The classifier of the critic favours what it chose itself, so name another one, too.

A run that was interrupted continues: run the same command again.

    python benchmarks/augmentation/filters.py --classifier runs/judge --out runs/filters
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import mean_interval
from options import make_parser, refuse_others

from imagemint.client import Filter
from imagemint.client.torch.shares import Share
from imagemint.dataset.engine_source import EngineSource
from imagemint.training import evaluation
from imagemint.training.evaluation.files import UNCONDITIONAL

NONE = "none"
CONDITIONS = {
    NONE: Filter(),
    "--min-class-confidence 0.9": Filter(min_class_confidence=0.9),
    "--min-class-confidence 0.99": Filter(min_class_confidence=0.99),
    "--min-class-confidence 0.999": Filter(min_class_confidence=0.999),
    "--rejection-sampling": Filter(rejection_sampling=True, max_tries=1_000),
    "--min-training-distance 0.3": Filter(min_training_distance=0.3),
    "--min-training-distance 0.5": Filter(min_training_distance=0.5),
}
METRICS = (
    *("class_accuracy", "worst_class_accuracy", "frechet_distance", "coverage"),
    *("precision", "recall", "training_copies"),
)
PASSED = "passed"
"""Name of the share of candidates that pass, beside the metrics."""
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
    for block in Share().blocks(count, _BLOCK):
        part = source.read(block.start, block.size)
        images.append(part.image)
        none = np.full(len(part), UNCONDITIONAL)
        classes.append(none if part.class_id is None else part.class_id)
        rejected += int(part.scores.rejected.sum()) if part.scores else 0
    source.close()
    np.savez(path, image=np.concatenate(images), class_id=np.concatenate(classes))
    return float(count / (count + rejected))


def measure(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Returns the figures of a condition, from an earlier run if there is one.

    Returns:
        By metric, the value and that of real images; a metric of a further judge has its name
        behind an @. `PASSED` has no value of real images.
    """
    finished = options.out / f"{name.replace(' ', '')}-{seed}.json"
    if not finished.is_file():
        path = options.out / "images.npz"
        found: dict[str, Any] = {PASSED: {"value": draw(options, name, seed, path)}}
        judgings = [
            evaluation.Judging(each.name, *evaluation.open_extractor(each, None, _CPU))
            for each in options.classifier
        ]
        figures = evaluation.evaluate_under_all(
            evaluation.open_source(str(path), _CPU),
            judgings,
            evaluation.Protocol(dataset=options.dataset),
            options.data,
            cache=False,
        )
        for each in figures:
            if each.metric.partition("@")[0] in METRICS:
                found[each.metric] = {"value": each.value, "real": each.reference}
        path.unlink()
        finished.write_text(json.dumps(found, indent=2) + "\n")
    return dict(json.loads(finished.read_text()))


def summarise(found: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Returns the mean of each metric, and its paired difference from images without a condition.

    Args:
        found: figures by condition, seed and metric.
    """
    summary: dict[str, Any] = {}
    for name, by_seed in found.items():
        summary[name] = {"seeds": len(by_seed)}
        for metric in next(iter(by_seed.values()), {}):
            values = {seed: each[metric]["value"] for seed, each in by_seed.items()}
            summary[name][metric] = {"mean": statistics.mean(values.values())}
            paired = [seed for seed in values if seed in found[NONE] and name != NONE]
            if paired:
                mean, half = mean_interval(
                    [values[seed] - found[NONE][seed][metric]["value"] for seed in paired]
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
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in choose_conditions(options)}
    for seed in range(options.seeds):
        for name, by_seed in found.items():
            print(f"seed {seed}, {name}", flush=True)
            by_seed[seed] = measure(options, name, seed)
            content = {"settings": settings, "figures": found, "summary": summarise(found)}
            record.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
