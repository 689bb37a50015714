"""Reads and writes ``evaluation.json``, the measured figures of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagemint.training.errors import CheckpointError
from imagemint.training.old_protocols import read_old_figure
from imagemint.training.whole_files import write_whole


@dataclass(frozen=True)
class Setup:
    """What the figures of one evaluation share.

    Attributes:
        results: what was measured: seeds and indices, or what computed the results.
        data: the real images: data set, split, and size or rows.
        judges: name, digest, accuracy and layer of each network that looked at the images.
        command: that measures again.
        warnings: reasons not to trust the figures.
    """

    results: str = ""
    data: str = ""
    judges: tuple[str, ...] = ()
    command: str = ""
    warnings: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Returns its parts as words."""
        command = [f"command: {self.command}"] if self.command else []
        warnings = [f"WARNING: {warning}" for warning in self.warnings]
        return [*filter(None, (self.results, self.data)), *self.judges, *command, *warnings]


@dataclass(frozen=True)
class EvaluationFigure:
    """One measured figure, with what the message ``imagemint.v1.Evaluation`` has.

    Attributes:
        metric: name, such as ``class_accuracy``.
        value: in the metric's own unit; shares are 0 to 1.
        method: how it is computed, and what its reference is; the same in every evaluation.
        sample_size: generated images measured.
        reference: the same figure of real data against real data, or None.
        deviation: what `spread` names, or None.
        spread: ``standard error``, or ``mean of N, deviation`` for the standard deviation over N
            seeds whose mean the value is.
        detail: what the value is made of, such as the share of each attribute.
        setup: what the figures of the evaluation share.
    """

    metric: str
    value: float
    method: str
    sample_size: int
    reference: float | None = None
    deviation: float | None = None
    spread: str = ""
    detail: str = ""
    setup: Setup = Setup()

    @property
    def protocol(self) -> str:
        """All that is known of how it was measured, in one line."""
        known = self.deviation is not None and self.spread
        spread = f"{self.spread} {self.deviation:.2g}" if known else ""
        parts = [self.method, self.detail, *self.setup.describe(), spread]
        return "; ".join(filter(None, parts))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "EvaluationFigure":
        """Returns a figure of a report or a record, also of one from before `Setup`.

        Raises:
            TypeError, AttributeError: it is no such figure.
        """
        if "protocol" in content:
            content = read_old_figure(content)
        setup = content.get("setup", {})
        lists = {name: tuple(setup.get(name, ())) for name in ("judges", "warnings")}
        return cls(**{**content, "setup": Setup(**{**setup, **lists})})


def is_own_data(dataset: str | None, own: str | None) -> bool:
    """Returns whether a run is measured against its own data set.

    Args:
        dataset: name or folder of the data set of the evaluation; None for the run's own.
        own: that of the run.
    """
    if dataset is None or own is None or dataset == own:
        return dataset in (None, own)
    return Path(dataset).exists() and Path(dataset).resolve() == Path(own).resolve()


def choose_folder(run: Path, dataset: str | None, own: str | None) -> Path:
    """Returns the folder for table and pictures of a run: one for each data set.

    Args:
        run: directory of the run.
        dataset: see `is_own_data`.
        own: see `is_own_data`.
    """
    if dataset is None or is_own_data(dataset, own):
        return run / "evaluation"
    return run / f"evaluation-{Path(dataset).name}"


def write_report(path: Path, weights_sha256: str, figures: Sequence[EvaluationFigure]) -> None:
    """Writes figures of the generator with these weights. A kill keeps the earlier file."""
    content = {"weights_sha256": weights_sha256, "figures": [asdict(f) for f in figures]}
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


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
        return tuple(EvaluationFigure.from_json(figure) for figure in content["figures"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not an evaluation report ({error}); delete it, `imagemint evaluate` writes"
            " it again"
        ) from error


def write_table(
    path: Path,
    title: str,
    figures: Sequence[EvaluationFigure],
    *,
    warnings: Sequence[str] = (),
    hint: str = "",
) -> None:
    """Writes figures as a Markdown table, followed by how each is measured.

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
        f"| {f.metric} | {f.value:.4g} | {_format_cell(f.deviation)}"
        f" | {_format_cell(f.reference)} | {f.sample_size:,} |"
        for f in figures
    ]
    lines += ["", hint] if hint else []
    lines += ["", *describe_methods(figures)]
    path.write_text("\n".join(lines) + "\n")


def describe_methods(figures: Sequence[EvaluationFigure]) -> list[str]:
    """Returns Markdown lines: how each figure is measured, and once what several share.

    The method of a figure with an ``@`` in its name is that of the name before it.
    """
    methods: dict[str, str] = {}
    for figure in figures:
        methods.setdefault(figure.metric.partition("@")[0], figure.method)
    lines = [f"- {metric}: {method}" for metric, method in methods.items()]
    lines += [
        f"- {figure.metric} in detail: {figure.detail}" for figure in figures if figure.detail
    ]
    descriptions = {figure.setup: figure.setup.describe() for figure in figures}
    common = [
        part
        for part in next(iter(descriptions.values()), [])
        if all(part in other for other in descriptions.values())
    ]
    lines += ["", f"All figures: {'; '.join(common)}"] if common else []
    for setup, parts in descriptions.items():
        if own := [part for part in parts if part not in common]:
            names = ", ".join(figure.metric for figure in figures if figure.setup == setup)
            lines += ["", f"{names}: {'; '.join(own)}"]
    return lines


def _format_cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4g}"
