"""Compares what the recipe vanilla-mnist learns with the textbook's plain listing, epoch by epoch.

Both have the same networks, losses, optimiser, batch size and learning rate. The listing is
`plain_gan.py`, which shares no code with imagemint's training: it shuffles and draws with PyTorch's
own generator, draws new noise for G, and ends each epoch with a short batch. The recipe runs with
`ema_half_life=1`, so that its averaged generator is G itself.

After each epoch, or every few (`--every`), one judge measures 5,000 images of each side: the modes
that it sees, the Frechet distance as a multiple of its floor, the coverage, and the spread (mean
standard deviation of a pixel, as a multiple of that of real images). Losses are means over the
epoch.

    python benchmarks/listing.py --classifier benchmarks/judges/digits --epochs 40 --every 8 \
        --json benchmarks/results/listing.json
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_option import add_data_option
from plain_gan import BATCH_SIZE, PlainGan
from torch import Tensor, nn

from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.evaluation.curve import QualityCurve
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.samples import draw_fixed_samples
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.training_loop import train
from imagemint.training.recipes.vanilla_mnist import VanillaMnistRecipe

CPU = torch.device("cpu")
Figures = dict[str, float]


class AsImages(nn.Module):
    """The plain generator, with its vectors as images [N, 1, 28, 28]."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns images for latents [N, 128]; there is no condition."""
        del y
        images: Tensor = self.G(z).unflatten(1, (1, 28, 28))
        return images


class Measures:
    """Measures a generator: the quality curve, and the spread of a hundred images.

    Args:
        train: training images.
        test: test images.
        judge: directory of the classifier that looks at them.
    """

    def __init__(self, train: LabelledImages, test: LabelledImages, judge: Path) -> None:
        recipe = VanillaMnistRecipe()
        self._curve = QualityCurve(recipe, train, test, Judge(judge, CPU))
        self._z_dim = recipe.z_dim
        self._usual = _measure_spread(train.images[:4_000])

    def __call__(self, generator: nn.Module) -> Figures:
        """Returns the figures of a generator in evaluation mode."""
        images, _ = draw_fixed_samples(generator, self._z_dim, 0)
        return self._curve(generator) | {"spread": _measure_spread(images) / self._usual}


def _measure_spread(images: np.ndarray) -> float:
    return float(images.astype(np.float32).std(axis=0).mean())


def shuffle(data: LabelledImages) -> Iterator[Tensor]:
    """Yields an epoch of batches in a new order, the last one short."""
    for rows in torch.randperm(len(data)).split(BATCH_SIZE):
        images = torch.from_numpy(data.images[rows.numpy()]).permute(0, 3, 1, 2)
        yield images.float().div(127.5).sub(1)


def run_listing(
    data: LabelledImages, measures: Measures, epochs: int, seed: int, every: int = 1
) -> Iterator[Figures]:
    """Trains the listing; yields the losses of each epoch, with the figures of every few."""
    plain, images = PlainGan(seed), 0
    for epoch in range(1, epochs + 1):
        counts, *losses = zip(*plain.train(shuffle(data)), strict=True)
        images += sum(counts)
        mean_D, mean_G = (float(np.mean(loss)) for loss in losses)
        found = {} if epoch % every else measures(AsImages(plain.G))
        yield {"images": images, "loss_D": mean_D, "loss_G": mean_G} | found


def run_recipe(
    data: LabelledImages,
    measures: Measures,
    epochs: int,
    seed: int,
    every: int = 1,
    **options: int,
) -> list[Figures]:
    """Trains the recipe; returns the losses of each epoch, with the figures of every few."""
    epoch = len(data)
    recipe = VanillaMnistRecipe(images=epochs * epoch, ema_half_life=1, seed=seed, **options)
    rows = {"images", "loss_D", "loss_G", "modes", "spread", "frechet_over_floor", "coverage"}
    with tempfile.TemporaryDirectory() as run:
        train(
            *(GeneratorTask(recipe, data), Path(run)),
            schedule=Schedule(epoch, every * epoch, collapse_grace=recipe.images),
            device=CPU,
            measure=measures,
            quiet=True,
        )
        log = (Path(run) / "log.jsonl").read_text().splitlines()
    return [{name: row[name] for name in row.keys() & rows} for row in map(json.loads, log)]


def show(side: str, epoch: int, row: Mapping[str, float]) -> None:
    """Prints one row."""
    print(
        f"{side:8} epoch {epoch:3}  D {row['loss_D']:6.3f}  G {row['loss_G']:6.3f}"
        f"  modes {row.get('modes', float('nan')):4.0f}  spread {row.get('spread', 0):5.3f}"
        f"  Frechet {row.get('frechet_over_floor', float('nan')):7.1f} x floor"
        f"  coverage {row.get('coverage', float('nan')):.3f}",
        flush=True,
    )


def main() -> None:
    """Prints a row for each epoch; with --json also writes them to a file, as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_data_option(parser)
    parser.add_argument("--classifier", type=Path, required=True, help="the judge")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, default=1, help="epochs between two measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    data, test = (load_dataset("mnist", split, arguments.data) for split in ("train", "test"))
    measures = Measures(data, test, arguments.classifier)
    sides: dict[str, list[Figures]] = {"listing": [], "recipe": []}
    metadata: dict[str, Any] = {
        "judge": json.loads((arguments.classifier / "classifier.json").read_text()),
        "seed": arguments.seed,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "torch": torch.__version__,
    }

    def keep(side: str, row: Figures) -> None:
        sides[side].append(row)
        show(side, len(sides[side]), row)
        if arguments.json:
            arguments.json.write_text(json.dumps(metadata | sides, indent=2) + "\n")

    planned = (arguments.epochs, arguments.seed, arguments.every)
    for row in run_listing(data, measures, *planned):
        keep("listing", row)
    for row in run_recipe(data, measures, *planned):
        keep("recipe", row)


if __name__ == "__main__":
    main()
