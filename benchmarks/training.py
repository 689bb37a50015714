"""Compares the speed of the recipe vanilla-mnist with a plain training script.

Both train on the same digits with the same networks, loss, optimiser, batch size and step sizes.
They take turns within a round, so that variations of the machine affect both. The result is the
ratio of images per second. The plain script (`plain_gan.py`) is typical: a
`DataLoader` converts images to tensors one by one, and each network gets a new batch of generated
images. `listing.py` compares what the two learn.

    python benchmarks/training.py --data DIR
    python benchmarks/training.py --data DIR --json benchmarks/results/training-cpu.json
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from data_option import add_data_option
from plain_gan import BATCH_SIZE, PlainDigits, PlainGan
from torch.utils.data import DataLoader

from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.training_loop import train
from imagemint.training.recipes.vanilla_mnist import VanillaMnistRecipe

RECIPE = VanillaMnistRecipe()


def train_plain_script(data: LabelledImages, images: int) -> float:
    """Trains with the plain script and returns images per second."""
    plain = PlainGan()
    loader = DataLoader(PlainDigits(data.images), batch_size=BATCH_SIZE, shuffle=True)
    began, images_seen = time.perf_counter(), 0
    while images_seen < images:
        for count, _, _ in plain.train(loader):
            images_seen += count
            if images_seen >= images:
                break
    return images_seen / (time.perf_counter() - began)


def train_recipe(data: LabelledImages, images: int) -> float:
    """Trains with the recipe; returns images per second, with the log, without the checkpoint."""
    options = VanillaMnistRecipe(images=images)
    with tempfile.TemporaryDirectory() as run:
        quiet = Schedule(log_interval=images // 2, snapshot_interval=10 * images)
        task = GeneratorTask(options, data)
        train(task, Path(run), schedule=quiet, device=torch.device("cpu"), quiet=True)
        rows = [json.loads(row) for row in (Path(run) / "log.jsonl").read_text().splitlines()]
    return statistics.mean(float(row["images_per_s"]) for row in rows)


def main() -> None:
    """Prints the ratio; with --json also writes it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_data_option(parser)
    parser.add_argument("--images", type=int, default=60 * RECIPE.batch_size)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    data = load_dataset("mnist", "train", arguments.data)
    rounds = []
    for _ in range(arguments.rounds):
        plain, ours = (
            train_plain_script(data, arguments.images),
            train_recipe(data, arguments.images),
        )
        rounds.append({"plain": plain, "recipe": ours, "ratio": ours / plain})
        print(f"plain {plain:8,.0f} images/s   recipe {ours:8,.0f}   ratio {ours / plain:.2f}")
    ratio = statistics.median(each["ratio"] for each in rounds)
    print(f"median ratio {ratio:.2f}")
    if arguments.json:
        result = {
            "recipe": RECIPE.name,
            "images_per_round": arguments.images,
            "rounds": rounds,
            "median_ratio": ratio,
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "load_average_1_min": os.getloadavg()[0],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
