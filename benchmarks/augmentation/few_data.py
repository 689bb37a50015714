"""Measures what synthetic images add to few real ones.

For each seed and number N of real digits per class, the program draws N real images of each class,
trains a generator and a judge on these alone, exports the generator with a critic, and trains one
classifier from scratch for each arm. All classifiers take the same number of steps and are tested
on the whole real test set. Where an arm has more images than these steps show, they show a part of
the images, each once:

- real: the N images of each class;
- classical: the same, shifted at random by up to 2 pixels;
- synthetic: only images of the generator, `--per-class` of each class;
- mixed: the same synthetic images, and the real ones, shifted, repeated to about half of all;
- synthetic-filtered, mixed-filtered: the same, but only with synthetic images to which the judge
  gives their class with a probability of `--confidence`.

The judge of the filter is the classifier of the arm `classical`, so it has seen no other images.
Differences between two arms are paired by seed. Every step is kept in its folder: run the same
command again to continue. `few-data.json` has what is done so far and lists what is missing. On
another machine, name that record (`--record`): what it has is not measured again. That an arm
failed is a result, too; delete it from the record to try again.

    python benchmarks/augmentation/few_data.py --out runs/few-data
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import compute_mean_interval
from options import add_record, make_parser, read_record
from score import choose_images, draw_images

from imagemint.client import Filter
from imagemint.dataset.engine_source import EngineSource
from imagemint.engine.errors import ImagemintError
from imagemint.exporter.critic import CriticParts
from imagemint.exporter.draft import GraphOptions
from imagemint.exporter.export import export_generator
from imagemint.training.classifier.recipes import MnistClassifierRecipe
from imagemint.training.classifier.trained import load_classifier
from imagemint.training.classifier.training import train_classifier
from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.errors import TrainingError
from imagemint.training.loop.checkpoints import list_checkpoints
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.training_loop import train
from imagemint.training.recipes import RECIPES
from imagemint.training.trained import read_generator

ARMS = ("real", "classical", "synthetic", "synthetic-filtered", "mixed", "mixed-filtered")
CPU = torch.device("cpu")
_NEVER = 10**12
_TRIES = 1_000
_FILTERED = "-filtered"


class Cell:
    """One number of real images and one seed."""

    def __init__(self, options: argparse.Namespace, per_class: int | None, seed: int) -> None:
        self.options, self.per_class, self.seed = options, per_class, seed
        self.folder: Path = options.out / f"{per_class or 'all'}-{seed}"

    @functools.cached_property
    def real(self) -> LabelledImages:
        """The real images that the cell may see."""
        return load_dataset(
            "mnist",
            "train",
            self.options.data,
            per_class=self.per_class,
            subset_seed=self.seed,
        )

    @functools.cached_property
    def test(self) -> LabelledImages:
        """The real test set."""
        return load_dataset("mnist", "test", self.options.data)

    def measure(self, arm: str) -> float:
        """Returns the accuracy of an arm, from an earlier run if there is one."""
        out = self.folder / arm
        if not (out / "classifier.json").is_file():
            options = self.options
            images_seen = options.steps * options.batch_size
            images = self.gather(arm)
            data = choose_images(images, min(len(images), images_seen), self.seed)
            recipe = MnistClassifierRecipe(
                width=options.width,
                batch_size=options.batch_size,
                epochs=round(images_seen / len(data)),
                shift=0 if arm == "real" else 2,
                seed=self.seed,
            )
            train_classifier(recipe, data, self.test, out, device=CPU, quiet=True)
        return float(json.loads((out / "classifier.json").read_text())["test_accuracy"])

    def gather(self, arm: str) -> LabelledImages:
        """Returns the training images of an arm."""
        if arm in ("real", "classical"):
            return self.real
        kept = None
        if arm.endswith(_FILTERED):
            kept = Filter(self.options.confidence, max_tries=_TRIES)
        source = EngineSource(
            "few", repository=self.export(), seed=self.seed, classes=[], image_filter=kept
        )
        count = self.options.per_class * len(self.real.class_labels)
        synthetic = draw_images(source, count, self.real)
        source.close()
        return synthetic if arm.startswith("synthetic") else join(self.real, synthetic)

    def export(self) -> Path:
        """Returns the repository with the generator, which is trained if need be."""
        repository = self.folder / "models"
        if not (repository / "few/1").is_dir():
            self.measure("classical")
            classifier, metadata = load_classifier(self.folder / "classical", CPU)
            export_generator(
                read_generator(self.train_generator()),
                name="few",
                repository=repository,
                graph_options=GraphOptions(critic=CriticParts(("class",), classifier, metadata)),
            )
        return repository

    def train_generator(self) -> Path:
        """Trains the generator, or continues; returns its run."""
        run, options = self.folder / "generator", self.options
        channels = {
            name: getattr(options, name)
            for name in ("generator_channels", "discriminator_channels")
            if getattr(options, name) is not None
        }
        recipe = RECIPES[options.recipe](
            images=options.generator_images, augment="diff", seed=self.seed, **channels
        )
        # A generator of few images may fail; that is a result, not a reason to stop.
        schedule = Schedule(
            snapshot_interval=32_000, collapse_grace=_NEVER, divergence_factor=float("inf")
        )
        state = train(
            GeneratorTask(recipe, self.real),
            run,
            schedule=schedule,
            device=CPU,
            resume=bool(list_checkpoints(run)),
            quiet=True,
        )
        if state.images_seen < recipe.images:  # SIGINT or SIGTERM came
            raise SystemExit(f"{run} is stopped at {state.images_seen} images")
        return run


def join(real: LabelledImages, synthetic: LabelledImages) -> LabelledImages:
    """Returns both, with the real images repeated to about half of all."""
    repeats = max(1, round(len(synthetic) / len(real)))
    return dataclasses.replace(
        real,
        images=np.concatenate([*[real.images] * repeats, synthetic.images]),
        labels=np.concatenate([*[real.labels] * repeats, synthetic.labels]),
        sha256=hashlib.sha256(f"{real.sha256} {repeats} {synthetic.sha256}".encode()).hexdigest(),
    )


def summarise(done: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Returns, for each N, the mean of each arm, and its paired differences.

    Each arm is compared with `classical`, and one with a filter also with the same without. A seed
    counts if it has both.

    Args:
        done: accuracies by N, seed and arm.
    """
    return {
        per_class: {
            arm: {"accuracy": statistics.mean(found), "seeds": len(found)}
            | _compare(by_seed, arm, "classical")
            | (_compare(by_seed, arm, arm.removesuffix(_FILTERED)) if _FILTERED in arm else {})
            for arm in ARMS
            if (found := [each[arm] for each in by_seed.values() if arm in each])
        }
        for per_class, by_seed in done.items()
        if by_seed
    }


def _compare(by_seed: dict[str, dict[str, float]], arm: str, base: str) -> dict[str, Any]:
    """Returns the mean difference between two arms, with its interval; {} without any pair."""
    pairs = [found for found in by_seed.values() if found.keys() >= {arm, base}]
    if not pairs:
        return {}
    mean, half = compute_mean_interval([found[arm] - found[base] for found in pairs])
    return {f"minus_{base}": {"mean": mean, "interval_95": half, "seeds": len(pairs)}}


def run_queue(options: argparse.Namespace) -> None:
    """Measures what is missing, seed by seed, and writes the record after each figure."""
    settings = read_settings(options)
    path: Path = options.record or options.out / "few-data.json"
    record = read_record(path, settings, free=("seeds",))
    done: dict[str, dict[str, dict[str, float]]] = {str(n or "all"): {} for n in options.images}
    done |= record.get("accuracy", {})
    failures: dict[str, str] = record.get("failed", {})

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make_record(settings, done, failures), indent=2) + "\n")

    for seed in range(1, options.seeds + 1):
        for per_class in options.images:
            name = str(per_class or "all")
            cell = Cell(options, per_class, seed)
            for arm in ARMS:
                if arm in done[name].get(str(seed), {}) or f"{name}-{seed}-{arm}" in failures:
                    continue
                if options.only_done and not (cell.folder / arm / "classifier.json").is_file():
                    continue
                try:
                    found = cell.measure(arm)
                except (ImagemintError, TrainingError) as error:
                    failures[f"{name}-{seed}-{arm}"] = str(error)
                    continue
                done[name].setdefault(str(seed), {})[arm] = found
                write()
                print(f"{name} per class, seed {seed}, {arm}: {found:.2%}", flush=True)
    write()


def make_record(
    settings: dict[str, Any],
    done: dict[str, dict[str, dict[str, float]]],
    failures: dict[str, str],
) -> dict[str, Any]:
    """Returns the record.

    Args:
        settings: of the run.
        done: accuracies by N, seed and arm.
        failures: why an arm has no accuracy, by N, seed and arm.
    """
    return {
        "command": "python benchmarks/augmentation/few_data.py " + spell(settings),
        "settings": settings,
        "accuracy": done,
        "summary": summarise(done),
        "failed": failures,
        "not_run": [
            f"{name}-{seed}"
            for name, by_seed in done.items()
            for seed in range(1, settings["seeds"] + 1)
            if not by_seed.get(str(seed), {}).keys() >= {*ARMS}
        ],
    }


_NOT_RECORDED = {"out", "data", "only_done", "record"}


def read_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that decide the figures."""
    return {name: value for name, value in vars(options).items() if name not in _NOT_RECORDED}


def spell(settings: dict[str, Any]) -> str:
    """Returns the flags of a command line."""
    flags = []
    for name, value in settings.items():
        if value is None:
            continue
        values = [str(each or "all") for each in value] if isinstance(value, list) else [str(value)]
        flags.append(f"--{name.replace('_', '-')} {' '.join(values)}")
    return " ".join(flags)


def parse_number(text: str) -> int | None:
    """Returns a number of images; None for `all`."""
    return None if text == "all" else int(text)


def main() -> None:
    """Runs the queue."""
    parser = make_parser(__doc__, "folder of the results")
    parser.add_argument(
        "--images",
        type=parse_number,
        nargs="+",
        default=[10, 50, 100, 500, None],
        help="real images per class; `all` for the whole data set",
    )
    parser.add_argument("--per-class", type=int, default=1_000, help="synthetic images per class")
    parser.add_argument("--confidence", type=float, default=0.9, help="of the filter")
    parser.add_argument("--steps", type=int, default=1_000, help="of each classifier")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16, help="channels of the classifiers")
    parser.add_argument("--recipe", default="mnist", help="of the generator, with classes")
    parser.add_argument("--generator-images", type=int, default=480_000, help="shown in training")
    parser.add_argument("--generator-channels", type=int, help="default: those of the recipe")
    parser.add_argument("--discriminator-channels", type=int, help="likewise")
    add_record(parser, "few-data.json")
    run_queue(parser.parse_args())


if __name__ == "__main__":
    main()
