"""Draws the pictures of an evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemint.engine.sampling import draw_latents
from imagemint.training.evaluation.copies import find_nearest_training_images
from imagemint.training.evaluation.measuring import Sample
from imagemint.training.evaluation.real_images import RealImages
from imagemint.training.evaluation.sheets import COLUMNS, make_code_sheets, make_truncation_sheet
from imagemint.training.evaluation.sources import LatentSource, Source
from imagemint.training.evaluation_report import EvaluationFigure
from imagemint.training.json_lines import read_json_lines
from imagemint.training.loop.samples import arrange_grid
from imagemint.training.whole_files import write_whole

_ROWS, _STEPS = 10, 10
_SUSPECTS = 500  # images to search for those nearest to a training image
_HISTORY = "history.jsonl"


class Album:
    """A folder of pictures.

    Args:
        folder: path of the folder; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, source: Source, seed: int, sample: Sample, reals: RealImages) -> None:
        """Draws ``grid.png``, ``nearest.png`` and, for sources with latents, several more.

        The grid shows the first images of the seed, unselected. Where there are classes, each row
        shows ten images of one class: they should differ as much as real images of that class do.
        ``nearest.png`` shows generated images and below each the training image nearest to it in
        pixels: the ten nearest pairs among 500 images, one of each class where there are classes.
        There is none for stacks. Sources with latents also get ``interpolation.png``, and
        ``truncation.png`` and ``code*.png`` where they have truncation and codes.
        """
        self._save("grid.png", _arrange_grid(sample), _ROWS)
        if reals.typical_copies is not None:
            pairs = _pair_with_nearest(sample, reals.train.images)
            self._save("nearest.png", pairs, len(pairs) // 2)
        if isinstance(source, LatentSource):
            self._save("interpolation.png", _interpolate(source, seed), _STEPS)
            if (truncated := make_truncation_sheet(source, seed)) is not None:
                self._save("truncation.png", truncated, COLUMNS)
            for name, images, columns in make_code_sheets(source, seed) if sample.coded else ():
                self._save(f"{name}.png", images, columns)

    def add_figures(self, images_seen: int | None, figures: Sequence[EvaluationFigure]) -> None:
        """Adds the figures to ``history.jsonl``, and draws all of its figures as curves.png.

        Args:
            images_seen: images seen in training; None if unknown.
            figures: the measured figures.
        """
        if images_seen is None:
            return
        path = self._folder / _HISTORY
        rows = read_json_lines(path, "images_seen")
        rows = [row for row in rows if row["images_seen"] != images_seen]
        rows.append(
            {"images_seen": images_seen} | {figure.metric: figure.value for figure in figures}
        )
        rows.sort(key=lambda row: row["images_seen"])
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        draw_curves(self._folder / "curves.png", rows, figures)

    def _save(self, name: str, images: NDArray[np.uint8], columns: int) -> None:
        Image.fromarray(arrange_grid(images, columns)).save(self._folder / name)


def draw_curves(
    path: Path, rows: Sequence[dict[str, float]], figures: Sequence[EvaluationFigure]
) -> None:
    """Draws each metric over the images seen, with the figure of real data as a dashed line."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

    columns = 4
    lines = -(-len(figures) // columns)
    figure = Figure(figsize=(3 * columns, 2.2 * lines), layout="constrained")
    for number, each in enumerate(figures):
        axes = figure.add_subplot(lines, columns, number + 1)
        known = [row for row in rows if each.metric in row]
        axes.plot(
            [row["images_seen"] for row in known], [row[each.metric] for row in known], marker="."
        )
        if each.reference is not None:
            axes.axhline(each.reference, linestyle="--", color="gray")
        axes.set_title(each.metric, fontsize="small")
        axes.tick_params(labelsize="x-small")
    figure.savefig(path, dpi=100)


def _arrange_grid(sample: Sample) -> NDArray[np.uint8]:
    """Returns a hundred images; with classes, a row has ten of each, up to ten classes."""
    if sample.classes is None:
        return sample.images[: _ROWS * _ROWS]
    rows = [np.flatnonzero(sample.classes == label)[:_ROWS] for label in range(_ROWS)]
    rows = [np.resize(row, _ROWS) for row in rows if len(row)]
    return sample.images[np.concatenate(rows)]


def _pair_with_nearest(sample: Sample, known: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns generated images, and the known images nearest to them."""
    images = sample.images[:_SUSPECTS]
    distances, nearest = find_nearest_training_images(images, known)
    worst = np.argsort(distances)
    if sample.classes is not None:
        _, first = np.unique(sample.classes[worst], return_index=True)
        worst = worst[first]
    worst = worst[:_ROWS]
    return np.concatenate([images[worst], known[nearest[worst]]])


def _interpolate(source: LatentSource, seed: int) -> NDArray[np.uint8]:
    """Returns images of ten walks between two latents along the sphere, each within one class."""
    ends = draw_latents(seed, 0, 2 * _ROWS, source.z_dim, distribution=source.distribution)
    z = np.concatenate([_walk(*ends[2 * row : 2 * row + 2]) for row in range(_ROWS)])
    if source.captions is not None:
        known = source.captions.example_tokens
        return source.generate(
            z, None, tokens=np.repeat(np.resize(known, (_ROWS, known.shape[1])), _STEPS, axis=0)
        )
    if not source.num_classes:
        return source.generate(z, None)
    classes = np.repeat(np.arange(_ROWS, dtype=np.int64) % source.num_classes, _STEPS)
    return source.generate(z, classes)


def _walk(start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns latents [10, z_dim] on the arc between two latents.

    On a straight line, their length would fall to 0.7 half-way, which latents of many dimensions
    never have. White, "Sampling Generative Networks" (2016).
    """
    cosine = start @ end / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    share = np.linspace(0, 1, _STEPS)[:, np.newaxis]
    if angle < 1e-4:  # noqa: PLR2004 - the arc is a line, and the sine is 0
        return ((1 - share) * start + share * end).astype(np.float32)
    arc: NDArray[np.float32] = (
        (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)
    ).astype(np.float32)
    return arc
