"""Writes table and pictures of an evaluated translator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemint.training.datasets.translations import Pairs
from imagemint.training.evaluation_report import EvaluationFigure, describe_methods
from imagemint.training.loop.examples import render_sources
from imagemint.training.loop.samples import arrange_grid

Images = NDArray[np.uint8]

_ROWS = 12


@dataclass(frozen=True)
class Column:
    """Results of one kind.

    Attributes:
        name: ``result``, or the name of a baseline.
        images: uint8 [N, H, W, C].
    """

    name: str
    images: Images


def write_translations(
    out: Path,
    title: str,
    test: Pairs,
    columns: Sequence[Column],
    figures: Sequence[EvaluationFigure],
) -> None:
    """Writes ``table.md`` and ``pairs.png``.

    The picture has a row for each of the first twelve sources: the source, the results in the order
    of the columns of the table, and the true image.
    """
    (out / "table.md").write_text(describe(title, figures))
    rows = np.arange(min(_ROWS, len(columns[0].images)))
    sources, truth = test.make_examples(rows)
    shown = [
        render_sources(sources, test.form, test.target_shape),
        *(column.images[rows] for column in columns),
        truth,
    ]
    images = np.stack(shown, axis=1).reshape(-1, *truth.shape[1:])
    Image.fromarray(arrange_grid(images, len(shown))).save(out / "pairs.png")


def describe(title: str, figures: Sequence[EvaluationFigure]) -> str:
    """Returns a Markdown table: a row for each metric, a column for each kind of results."""
    by_name = {figure.metric: figure for figure in figures}
    metrics = list(dict.fromkeys(figure.metric.partition("@")[0] for figure in figures))
    names = list(dict.fromkeys(figure.metric.partition("@")[2] for figure in figures))
    head = ["metric", *(name or "result" for name in names), "real data", "images"]
    lines = [f"# {title}", "", _format_row(head), _format_row(["---", *["---:"] * (len(head) - 1)])]
    for metric in metrics:
        of_metric = [by_name.get(f"{metric}@{name}" if name else metric) for name in names]
        known = next(each for each in of_metric if each is not None)
        reference = "" if known.reference is None else f"{known.reference:.4g}"
        cells = [_format_cell(each) for each in of_metric]
        lines.append(_format_row([metric, *cells, reference, f"{known.sample_size:,}"]))
    lines += ["", "Behind ± is the standard error of the mean over the images.", ""]
    lines += describe_methods(figures)
    return "\n".join(lines) + "\n"


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format_cell(figure: EvaluationFigure | None) -> str:
    if figure is None:
        return ""
    spread = "" if figure.deviation is None else f" ± {figure.deviation:.2g}"
    return f"{figure.value:.4g}{spread}"
