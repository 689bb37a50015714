"""Runs examples/augmentation/train.py with several seeds, and records its accuracies.

It takes N real digits of each class for training and the whole test set of MNIST, and a server with
the model. A run that was interrupted continues with the next seed.

    imagemint serve
    python benchmarks/augmentation/example.py --per-class 20 --out runs/example.json
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from intervals import compute_mean_interval
from options import make_parser, refuse_others

from imagemint.training.datasets import load_dataset

PROGRAM = Path(__file__).parents[2] / "examples/augmentation/train.py"
_LINE = re.compile(r"(?P<arm>.+): \d+ images, accuracy (?P<accuracy>[\d.]+) on \d+ others")


def write_digits(folder: Path, options: argparse.Namespace) -> list[str]:
    """Writes the real digits, and returns the flags that name them."""
    few = load_dataset("mnist", "train", options.data, per_class=options.per_class)
    flags = []
    for name, split in (("real", few), ("test", load_dataset("mnist", "test", options.data))):
        path = folder / f"{name}.npz"
        np.savez(path, image=split.images, label=split.labels)
        flags += [f"--{name}", str(path)]
    return flags


def run_example(flags: list[str], seed: int) -> dict[str, float]:
    """Returns the accuracy of each arm."""
    command = [sys.executable, str(PROGRAM), *flags, "--seed", str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    found = [_LINE.fullmatch(line) for line in done.stdout.splitlines()]
    return {match["arm"]: float(match["accuracy"]) for match in found if match}


def summarise(accuracy: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Returns the means of the arms, and the paired difference with its 95 % interval."""
    pairs = [(found["real"], found["real and synthetic"]) for found in accuracy.values()]
    mean, half = compute_mean_interval([mixed - real for real, mixed in pairs])
    return {
        "mean": {
            "real": sum(real for real, _ in pairs) / len(pairs),
            "real and synthetic": sum(mixed for _, mixed in pairs) / len(pairs),
        },
        "difference": mean,
        "interval_95": half,
    }


def main() -> None:
    """Runs the seeds that are missing in the record."""
    parser = make_parser(__doc__, "the record, a JSON file")
    parser.add_argument("--server", default="127.0.0.1:8001", help="HOST:PORT")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--per-class", type=int, default=20, help="real digits of each class")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("model", "per_class", "steps")}
    record: dict[str, Any] = {"settings": settings, "accuracy": {}}
    if options.out.is_file():
        record = json.loads(options.out.read_text())
        refuse_others(options.out, record["settings"], settings)
    with tempfile.TemporaryDirectory() as folder:
        flags = write_digits(Path(folder), options)
        flags += ["--server", options.server, "--model", options.model]
        flags += ["--steps", str(options.steps)]
        for seed in map(str, range(1, options.seeds + 1)):
            if seed not in record["accuracy"]:
                record["accuracy"][seed] = run_example(flags, int(seed))
                record |= summarise(record["accuracy"])
                options.out.write_text(json.dumps(record, indent=2) + "\n")
            print(f"seed {seed}: {record['accuracy'][seed]}", flush=True)


if __name__ == "__main__":
    main()
