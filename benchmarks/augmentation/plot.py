"""Draws a record of this folder: few-data.json, scores.json, or that of example.py.

Accuracies of the same seed are joined by a line. For few-data.json the picture has the mean of each
arm over the number of real images, with the 95 % interval of its difference from `classical`.

    python benchmarks/augmentation/plot.py runs/example.json docs/images/augmentation.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_PERCENT = 100
_ALL = 6_000  # images per class of the whole data set, about


def draw_pairs(axes: Axes, accuracy: dict[str, dict[str, float]]) -> None:
    """Draws a line for each seed, from the first arm to the last."""
    pairs = [found for found in accuracy.values() if len(found) > 1]
    arms = list(pairs[0])
    for found in pairs:
        axes.plot(arms, [_PERCENT * found[arm] for arm in arms], "o-", color="tab:blue", alpha=0.6)
    axes.set_xlabel("trained on")
    axes.margins(x=0.3)
    axes.set_title(f"{len(pairs)} seeds" if len(pairs) > 1 else "one seed")


def draw_few_data(axes: Axes, summary: dict[str, dict[str, Any]]) -> None:
    """Draws a line for each arm."""
    counts = {name: _ALL if name == "all" else int(name) for name in summary}
    arms = dict.fromkeys(arm for found in summary.values() for arm in found)
    for arm in arms:
        names = sorted((name for name in summary if arm in summary[name]), key=counts.__getitem__)
        found = [summary[name][arm] for name in names]
        intervals = [each.get("minus_classical", {}).get("interval_95") or 0 for each in found]
        axes.errorbar(
            [counts[name] for name in names],
            [_PERCENT * each["accuracy"] for each in found],
            [_PERCENT * half for half in intervals],
            marker="o",
            capsize=3,
            label=arm,
        )
    axes.set_xscale("log")
    axes.set_xlabel("real images of each class")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)  # over no point


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("out", type=Path, help="a picture; the suffix says in which format")
    options = parser.parse_args()
    record = json.loads(options.record.read_text())
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    if "summary" in record:
        draw_few_data(axes, record["summary"])
    else:
        draw_pairs(axes, record["accuracy"])
    axes.set_ylabel("accuracy on real test images, %")
    axes.grid(alpha=0.3)
    figure.savefig(options.out, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
