"""Pictures of the page: grids side by side, curves of all recipes, and the story of one run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image
from zoo_records import RECORDS, Record

from imagemint.training.loop.monitor import read_log

_COLUMNS = 4
_CELL_INCHES = 2.3
_DPI = 110
_COLOURS = colormaps["tab20"]


@dataclass(frozen=True)
class Curve:
    """A run whose curve is drawn, and whether its networks see labels."""

    record: Record
    sees_labels: bool


def draw_grids(records: Sequence[Record], path: Path) -> None:
    """Draws the grids of the records, in their order, as one picture with titles."""
    columns = min(len(records), _COLUMNS)
    rows = -(-len(records) // columns)
    side = _CELL_INCHES * (_COLUMNS / columns) ** 0.5  # few grids are larger
    figure = Figure(figsize=(columns * side, rows * (side + 0.25)), layout="constrained")
    for place, record in enumerate(records, start=1):
        axes = figure.add_subplot(rows, columns, place)
        with Image.open(RECORDS / f"{record.name}.png") as grid:
            axes.imshow(np.asarray(grid.convert("RGB")), interpolation="antialiased")
        axes.set_title(record.recipe, fontsize="small")
        axes.axis("off")
    _save(figure, path)


def draw_curves(runs: Sequence[Curve], path: Path) -> None:
    """Draws the quality of runs, in their order, against images and CPU time.

    Args:
        runs: the runs, each with a curve. Runs that see labels have solid lines.
        path: path of the picture.
    """
    figure = Figure(figsize=(12, 9), layout="constrained")
    columns = (
        ("images", "real images shown to D"),
        ("cpu_minutes", "CPU minutes of training"),
    )
    rows = (
        ("frechet_over_floor", "Frechet distance, multiple of the floor", "log"),
        ("coverage", "coverage", "linear"),
    )
    axes = figure.subplots(len(rows), len(columns), sharex="col", sharey="row", squeeze=False)
    for row, (metric, title, scale) in enumerate(rows):
        for column, (over, label) in enumerate(columns):
            plot = axes[row][column]
            for number, run in enumerate(runs):
                known = [point for point in run.record.curve if over in point and metric in point]
                plot.plot(
                    [point[over] for point in known],
                    [point[metric] for point in known],
                    "-" if run.sees_labels else "--",
                    color=_COLOURS(number % _COLOURS.N),
                    label=run.record.name,
                    linewidth=1.4,
                )
            plot.axhline(1, color="black", linestyle=":", linewidth=0.8)
            plot.set_xscale("log")
            plot.set_yscale(scale)
            for axis in (plot.xaxis, plot.yaxis) if scale == "log" else (plot.xaxis,):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(FuncFormatter(_format_tick))
                axis.set_minor_formatter(NullFormatter())
            plot.tick_params(axis="x", labelsize="small")
            plot.grid(visible=True, alpha=0.3)
            if row == len(rows) - 1:
                plot.set_xlabel(label)
        axes[row][0].set_ylabel(title)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper")
    _save(figure, path)


def _format_tick(value: float, _: int) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g}"


def draw_collapse(record: Record, listing: Path, epoch_images: int, path: Path) -> None:
    """Draws how a run collapses and recovers: its classes and its coverage after each epoch.

    Args:
        record: the run, with a curve.
        listing: the record of `listing.py`, whose runs have figures of the first epochs.
        epoch_images: images of an epoch.
        path: path of the picture.
    """
    known = json.loads(listing.read_text())
    lines = {
        "the listing": known["listing"],
        "the recipe beside it": known["recipe"],
        f"the run of {record.images / epoch_images:.0f} epochs": record.curve,
    }
    figure = Figure(figsize=(9.6, 2.8), layout="constrained")
    plots = figure.subplots(1, 2)
    for plot, metric, title in zip(
        plots, ("modes", "coverage"), ("digits that are drawn", "coverage"), strict=True
    ):
        for label, points in lines.items():
            curve = [(p["images"] / epoch_images, p[metric]) for p in points if metric in p]
            plot.plot(*zip(*curve, strict=True), ".-", label=label, linewidth=1, markersize=3)
        plot.set_xscale("log")
        plot.xaxis.set_major_formatter(FuncFormatter(_format_tick))
        plot.set_xlabel("epoch")
        plot.set_ylabel(title)
        plot.grid(visible=True, alpha=0.3)
    plots[0].legend(fontsize="small")
    _save(figure, path)


def draw_story(run: Path, epochs: Sequence[int], epoch_images: int, path: Path) -> None:
    """Draws how a run went: its grids after some epochs, ten single images, and its losses.

    Args:
        run: its directory, with a grid for each of its epochs.
        epochs: numbers of epochs, from 0, three or so; the last one gives the single images.
        epoch_images: images of an epoch.
        path: path of the picture.

    Raises:
        FileNotFoundError: the run has no grid from that time.
    """
    grids = [_read_grid_after(run, (epoch + 1) * epoch_images) for epoch in epochs]
    rows = read_log(run)
    figure = Figure(figsize=(3.2 * len(grids), 6.4), layout="constrained")
    top, middle, bottom = np.asarray(figure.subfigures(3, 1, height_ratios=[3.3, 0.8, 2.3]))
    for axes, epoch, grid in zip(
        np.atleast_1d(top.subplots(1, len(grids))), epochs, grids, strict=True
    ):
        axes.imshow(grid, cmap="gray", interpolation="antialiased")
        axes.set_title(f"epoch {epoch}", fontsize="small")
        axes.axis("off")
    side = grids[-1].shape[1] // 10
    for place, axes in enumerate(middle.subplots(1, 10)):
        axes.imshow(grids[-1][:side, place * side : (place + 1) * side], cmap="gray")
        axes.axis("off")
    axes = bottom.subplots()
    for name, label in (("loss_D", "D"), ("loss_G", "G")):
        known = [(row["images"] / epoch_images, row[name]) for row in rows if name in row]
        axes.plot(*zip(*known, strict=True), label=label, linewidth=0.8)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    _save(figure, path)


def _read_grid_after(run: Path, images: int) -> np.ndarray:
    """Returns the first grid drawn after so many images."""
    later = sorted(path for path in (run / "grids").glob("*.png") if int(path.stem) >= images)
    if not later:
        raise FileNotFoundError(f"{run} has no grid from image {images:,} on")
    with Image.open(later[0]) as grid:
        return np.asarray(grid)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name and version of the program, the file depends on the picture alone.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
