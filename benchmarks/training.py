"""Compares the speed of the recipe vanilla-mnist with a plain training script.

Both train on the same digits with the same networks, loss, optimiser, batch size and step sizes.
They take turns within a round, so that variations of the machine affect both. The result is the
ratio of images per second. The plain script is typical: a `DataLoader` converts images to tensors
one by one, and each network gets a new batch of generated images.

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

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.training_loop import train
from imagemint.training.recipes.vanilla_mnist import VanillaMnistRecipe

RECIPE = VanillaMnistRecipe()


class PlainDigits(Dataset[Tensor]):
    """Digits as Pillow images, each converted to a tensor on access."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        picture = Image.fromarray(self._images[index, :, :, 0])
        tensor = torch.from_numpy(np.asarray(picture).copy()).float().div(255).unsqueeze(0)
        return (tensor - 0.5) / 0.5


def plain_generator() -> nn.Sequential:
    """Returns the generator of the plain script."""
    return nn.Sequential(
        *(nn.Linear(RECIPE.z_dim, 256), nn.LeakyReLU(0.2)),
        *(nn.Linear(256, 512), nn.LeakyReLU(0.2)),
        *(nn.Linear(512, 1024), nn.LeakyReLU(0.2)),
        *(nn.Linear(1024, 784), nn.Tanh()),
    )


def plain_discriminator() -> nn.Sequential:
    """Returns the discriminator of the plain script."""
    return nn.Sequential(
        *(nn.Linear(784, 1024), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(1024, 512), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
        *(nn.Linear(256, 1), nn.Sigmoid()),
    )


def plain_script(data: LabelledImages, images: int) -> float:
    """Trains with the plain script and returns images per second."""
    torch.manual_seed(0)
    G, D = plain_generator(), plain_discriminator()
    opt_G = torch.optim.Adam(G.parameters(), lr=RECIPE.learning_rate)
    opt_D = torch.optim.Adam(D.parameters(), lr=RECIPE.learning_rate)
    criterion = nn.BCELoss()
    loader = DataLoader(PlainDigits(data.images), batch_size=RECIPE.batch_size, shuffle=True)
    began, seen, losses = time.perf_counter(), 0, 0.0
    while seen < images:
        for batch in loader:
            count = len(batch)
            real = batch.reshape(count, -1)
            ones, zeros = torch.ones(count, 1), torch.zeros(count, 1)
            fake = G(torch.randn(count, RECIPE.z_dim)).detach()
            opt_D.zero_grad()
            loss_D = criterion(D(real), ones) + criterion(D(fake), zeros)
            loss_D.backward()
            opt_D.step()
            opt_G.zero_grad()
            loss_G = criterion(D(G(torch.randn(count, RECIPE.z_dim))), ones)
            loss_G.backward()
            opt_G.step()
            losses += loss_D.item() + loss_G.item()
            seen += count
            if seen >= images:
                break
    return seen / (time.perf_counter() - began)


def recipe(data: LabelledImages, images: int) -> float:
    """Trains with the recipe; returns images per second, with the log, without the checkpoint."""
    options = VanillaMnistRecipe(images=images)
    with tempfile.TemporaryDirectory() as run:
        quiet = Schedule(log_interval=images // 2, snapshot_interval=10 * images)
        train(options, data, Path(run), schedule=quiet, device=torch.device("cpu"), quiet=True)
        rows = [json.loads(row) for row in (Path(run) / "log.jsonl").read_text().splitlines()]
    return statistics.mean(float(row["images_per_s"]) for row in rows)


def main() -> None:
    """Prints the ratio; with --json also writes it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds mnist/")
    parser.add_argument("--images", type=int, default=60 * RECIPE.batch_size)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    data = load_dataset("mnist", "train", arguments.data)
    rounds = []
    for _ in range(arguments.rounds):
        plain, ours = plain_script(data, arguments.images), recipe(data, arguments.images)
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
