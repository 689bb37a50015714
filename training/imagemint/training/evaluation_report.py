"""The file in which measured figures stand beside a run: ``evaluation.json``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from imagemint.training.errors import CheckpointError


@dataclass(frozen=True)
class EvaluationFigure:
    """One measured figure; field by field the message ``imagemint.v1.Evaluation``.

    Attributes:
        metric: name, such as ``class_accuracy``.
        value: in the metric's own unit; shares are 0 to 1.
        protocol: split, extractor with digest and layer, seed, command.
        sample_size: generated images measured.
        reference: the same figure of real data against real data, or None.
    """

    metric: str
    value: float
    protocol: str
    sample_size: int
    reference: float | None = None


def write_report(path: Path, weights_sha256: str, figures: Sequence[EvaluationFigure]) -> None:
    """Writes figures measured on the generator with these weights."""
    content = {"weights_sha256": weights_sha256, "figures": [asdict(f) for f in figures]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_report(path: Path, weights_sha256: str) -> tuple[EvaluationFigure, ...]:
    """Returns the figures in ``path``; none if it is missing or of other weights.

    Raises:
        CheckpointError: the file is there but is not such a report.
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
