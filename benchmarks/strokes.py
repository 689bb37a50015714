"""Measures faults that a judge of digits hardly sees: haze, thin strokes, and doubtful digits.

For each source, a run or a bundle of `mnist` or `stacked-mnist`, and for the real test images:

- haze: share of the pixels at levels 1 to 8 of 255;
- ink of a one: sum of the levels of an image of class 1, as a number of full pixels;
- stroke of a one: ink in each row that has any;
- doubtful: share of the channels that the judge gives no class with a probability of .9.

Ones are the images whose requested class, or whose label, is 1, so sources without classes have no
such figures.

    python benchmarks/strokes.py models/mnist/2 models/mnist/3 --classifier benchmarks/judges/digits
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from data_option import add_data_option
from numpy.typing import NDArray

from imagemint.training.datasets import load_dataset
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.evaluation.sources import open_source

CPU = torch.device("cpu")
HAZE = range(1, 9)
FULL = 255
INKED = 0.2
"""Ink of a row that belongs to a stroke, in full pixels: more than haze across the whole row."""
SURE = 0.9
ONE = 1

Images = NDArray[np.uint8]


def measure_haze(images: Images) -> float:
    """Returns the share of the pixels of images uint8 [N, H, W, C] at levels 1 to 8."""
    return float(np.isin(images, HAZE).mean())


def measure_ink(images: Images) -> tuple[float, float]:
    """Returns the ink of an image uint8 [N, H, W, 1], and of one of its rows that has any.

    Both are means, in full pixels.
    """
    rows = images[..., 0].sum(axis=2) / FULL
    return float(rows.sum(axis=1).mean()), float(rows[rows > INKED].mean())


def measure_doubt(images: Images, judge: Judge) -> float:
    """Returns the share of the channels of images uint8 [N, H, W, C] without a sure class."""
    channels = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3], 1)
    log_probabilities = judge.extract(channels).log_probabilities
    return float((log_probabilities.max(axis=1) < np.log(SURE)).mean())


def describe(images: Images, classes: NDArray[np.int64] | None, judge: Judge) -> str:
    """Returns the cells of a row of the table."""
    cells = "| |"
    if classes is not None and images.shape[-1] == 1:
        ink, stroke = measure_ink(images[classes == ONE])
        cells = f"{ink:.1f} | {stroke:.2f} |"
    haze, doubt = measure_haze(images), measure_doubt(images, judge)
    return f"{haze:.2%} | {cells} {doubt:.2%} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", help="runs or bundles")
    parser.add_argument("--classifier", type=Path, required=True, help="judge of digits")
    parser.add_argument("--samples", type=int, default=10_000, help="images of each source")
    add_data_option(parser)
    options = parser.parse_args()
    judge = Judge(options.classifier, CPU)
    print("| source | haze | ink of a one | stroke of a one | doubtful |")
    print("|---|---:|---:|---:|---:|")
    datasets = []
    for place in options.sources:
        source = open_source(place, CPU)
        datasets.append(source.dataset)
        images, classes = source.draw(0, 0, options.samples)
        print(f"| {place} | {describe(images, classes, judge)}")
        source.close()
    for dataset in dict.fromkeys(filter(None, datasets)):
        real = load_dataset(dataset, "test", options.data)
        cells = describe(real.images[: options.samples], real.labels[: options.samples], judge)
        print(f"| {real.name} | {cells}")


if __name__ == "__main__":
    main()
