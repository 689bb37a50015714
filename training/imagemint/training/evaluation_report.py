"""Reads and writes ``evaluation.json``, the measured figures of a run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from imagemint.training.errors import CheckpointError


@dataclass(frozen=True)
class EvaluationFigure:
    """One measured figure, with the fields of the message ``imagemint.v1.Evaluation``.

    Attributes:
        metric: name, such as ``class_accuracy``.
        value: in the metric's own unit; shares are 0 to 1.
        protocol: split, extractor with digest and layer, seed, command.
        sample_size: generated images measured.
        reference: the same figure of real data against real data, or None.
        deviation: standard deviation over the seeds whose mean the value is, or None; the protocol
            contains it, too, because the message has no such field.
    """

    metric: str
    value: float
    protocol: str
    sample_size: int
    reference: float | None = None
    deviation: float | None = None


def write_report(path: Path, weights_sha256: str, figures: Sequence[EvaluationFigure]) -> None:
    """Writes figures measured on the generator with these weights."""
    content = {"weights_sha256": weights_sha256, "figures": [asdict(f) for f in figures]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_report(path: Path, weights_sha256: str) -> tuple[EvaluationFigure, ...]:
    """Returns the figures in ``path``; none if the file is missing or of other weights.

    Raises:
        CheckpointError: the file exists but is not such a report.
    """
    if not path.exists():
        return ()
    try:
        content = json.loads(path.read_text())
        if content["weights_sha256"] != weights_sha256:
            return ()
        return tuple(EvaluationFigure(**figure) for figure in content["figures"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not an evaluation report ({error})") from error


def write_table(
    path: Path,
    title: str,
    figures: Sequence[EvaluationFigure],
    *,
    warnings: Sequence[str] = (),
    hint: str = "",
) -> None:
    """Writes figures as a Markdown table, followed by the protocol of each.

    Args:
        path: path of the file.
        title: heading of the table.
        figures: the figures, one for each row.
        warnings: reasons not to trust the figures, above the table.
        hint: advice below the table; empty for none.
    """
    lines = [f"# {title}", ""]
    lines += [line for warning in warnings for line in (f"**Warning:** {warning}", "")]
    lines.append("| metric | value | deviation | real data | images |")
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    lines += [
        f"| {f.metric} | {f.value:.4g} | {_cell(f.deviation)} | {_cell(f.reference)} |"
        f" {f.sample_size:,} |"
        for f in figures
    ]
    lines += ["", hint] if hint else []
    lines += ["", *(f"- {f.metric}: {f.protocol}" for f in figures)]
    path.write_text("\n".join(lines) + "\n")


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4g}"
