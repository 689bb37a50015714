"""Measures the effect of compilation, precision and memory format for each recipe.

For each recipe, the program trains a few steps on noise of the right shape: first to warm up (and
to compile), then in rounds in which the ways take turns. The result is the ratio of the time per
step to that of the plain way. On a CPU, time is the CPU time of the process, so that other work on
the machine has little effect. On a GPU it is wall time.

    python benchmarks/passes.py vanilla-mnist dcgan mnist --json FILE
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from imagemint.training.datasets import IMAGE_SHAPES, LabelledImages
from imagemint.training.loop import start as starting
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.training_loop import train
from imagemint.training.networks.precision import Passes
from imagemint.training.recipes import RECIPES
from imagemint.training.recipes.recipe import Recipe

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WAYS = ("plain", "compiled", "bf16", "rows first")


def draw_noise(recipe: type[Recipe]) -> LabelledImages:
    """Returns random images with the size and channels of a recipe."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    images = rng.integers(0, 256, (2_000, *IMAGE_SHAPES[recipe.dataset])).astype(np.uint8)
    return LabelledImages("noise/train", images, np.arange(2_000) % 10, tuple("abcdefghij"), "")


def read_clock() -> float:
    """Returns CPU time or, on a GPU, wall time in seconds."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure_seconds(way: str, passes: Passes, recipe: type[Recipe], steps: int) -> float:
    """Trains `steps` steps and returns the seconds, without those of a run of one step."""
    layout = torch.contiguous_format if way == "rows first" else torch.channels_last
    found = []
    for count in (1, 1 + steps):
        options = recipe()
        images = count * options.batch_size * options.discriminator_steps
        options = options.model_copy(update={"images": images})
        with (
            tempfile.TemporaryDirectory() as run,
            mock.patch.object(starting, "MEMORY_FORMAT", layout),
        ):
            began = read_clock()
            train(
                GeneratorTask(options, draw_noise(recipe)),
                Path(run),
                schedule=Schedule(10**9, 10**9),
                device=DEVICE,
                passes=passes,
                quiet=True,
            )
            found.append(read_clock() - began)
    return found[1] - found[0]


def compare(recipe: type[Recipe], ways: list[str], steps: int, rounds: int) -> dict[str, float]:
    """Returns seconds per step of each way: medians over rounds, after a warm-up round."""
    kinds = {
        way: Passes(
            "bf16" if way == "bf16" else "fp32",
            compiled=way == "compiled",
            device_type=DEVICE.type,
        )
        for way in ways
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, passes in kinds.items():
            found[way].append(measure_seconds(way, passes, recipe, steps) / steps)
    return {way: statistics.median(each[1:]) for way, each in found.items()}


def main() -> None:
    """Prints seconds per step and their ratios; with --json also writes them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="+", choices=RECIPES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {}
    for name in arguments.recipes:
        ways = ["plain", *(way for way in arguments.ways if way != "plain")]
        found = compare(RECIPES[name], ways, arguments.steps, arguments.rounds)
        result[name] = {
            way: {"seconds_per_step": each, "of_plain": each / found["plain"]}
            for way, each in found.items()
        }
        for way, each in found.items():
            print(f"{name:16} {way:10} {each:8.3f} s a step  {each / found['plain']:5.2f}")
    if arguments.json:
        metadata = {
            "machine": platform.machine(),
            "device": DEVICE.type,
            "threads": arguments.threads,
            "torch": torch.__version__,
        }
        arguments.json.write_text(json.dumps(metadata | {"recipes": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
