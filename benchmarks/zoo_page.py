"""Writes docs/zoo.md from the records, and the list of `imagemint train --list`."""

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_methods import describe_measuring, describe_training, list_open_runs, name_judges
from zoo_pictures import Curve
from zoo_queue import PLAN, Plan
from zoo_records import ROOT, Record, divide_by_floor

from imagemint.training.evaluation.judging import WEAK_JUDGE
from imagemint.training.evaluation_report import EvaluationFigure
from imagemint.training.recipes import RECIPES, TABLE

PAGE = ROOT / "docs/zoo.md"
PICTURES = ROOT / "docs/zoo"
LIST = ROOT / "training/imagemint/training/recipes/recorded.json"
STORY = PICTURES / "vanilla-mnist-story.png"
COLLAPSE = PICTURES / "vanilla-mnist-collapse.png"

INTRODUCTION = """\
<!-- Written by `python benchmarks/zoo.py page` from results/zoo and zoo.toml in benchmarks/. -->
# The zoo

This page compares the recipes that train a generator. Each table starts with the lowest Frechet
distance, and [How they are measured](#how-they-are-measured) explains all columns. Recipes whose
input is an image have [a page of their own](zoo-translation.md), which also says what 3D from a
photo would need here. [Train a generator](training.md) explains how you train one.

The *Frechet distance* compares mean and covariance of features of generated and of real images. It
is given as a multiple of the *floor*, the distance between two sets of real images. At 1 the
generated images differ from real ones as little as other real images do. *Coverage* is the share of
real images that have a generated one nearby. A recipe that sees labels has an easier task, so
compare it with others that see them. A high precision does not mean clear images: see
`vanilla-mnist`. Where a recipe has runs with several seeds, a figure is their mean, with the lowest
and the highest in parentheses. With one seed, small differences mean nothing: two samples of one
run differ by about a tenth in Frechet distance, and runs with different seeds differ by more. A run
that is shorter than the default of its recipe is marked *short*. It shows what the method costs. It
does not show what the method can reach.
"""


_FIGURES = {
    "1-NN accuracy": ("two_sample_accuracy",),
    "density": ("density",),
    "coverage": ("coverage",),
    "precision": ("precision",),
    "recall": ("recall",),
    "accuracy": ("class_accuracy", "code_class_accuracy"),
    "D classifies": ("classifier_accuracy", "code_classifier_accuracy"),
    "reverse KL": ("reverse_kl",),
}
"""Columns of the tables, and the figures that they may show."""
_COLLAPSE_TEXT = (
    "The grids are those after the epochs with these numbers, counted from 0. After epoch 0 the"
    " images are noise around one faint shape. After epoch 100 they have the strokes of digits,"
    " many of them broken. After epoch 199 most digits can be read. The losses do not show the"
    " collapse of the first epochs. The digits that are drawn do: first one, later all ten."
    " `benchmarks/listing.py` measured the plain listing and the recipe beside it."
)


_DATA_OF_TARGETS = "mnist"
_WITHOUT_TARGETS = "vanilla-mnist"  # it is there for its collapse
_MOST_FLOORS, _LEAST_COVERAGE, _LEAST_ACCURACY = 20, 0.9, 0.98


@dataclass(frozen=True)
class System:
    """The description of a recipe.

    Attributes:
        paper: address of its paper.
        year: year in which the paper appeared.
        loss: adversarial loss and others.
        restraint: what keeps D from winning too fast.
        labels: labels of training images that the networks see.
        text: what to look for.
    """

    paper: str
    year: int
    loss: str
    restraint: str
    labels: str
    text: str


def read_systems() -> dict[str, System]:
    """Returns the description of each recipe, by its name."""
    systems = tomllib.loads(PLAN.read_text())["systems"]
    return {
        name: System(**system | {"text": system["text"].strip()})
        for name, system in systems.items()
    }


UNEQUAL = """\
A run marked *unequal numbers* was measured as older versions did: coverage, and in some runs the
Frechet distance, compare all generated images with fewer test images. More generated images give a
higher coverage and a lower distance, so do not compare these figures with those of other rows.
"""


OLDER = """\
Records without CPU time are older than some of the changes that
[notes/recipes-against-papers.md](notes/recipes-against-papers.md) lists.
"""


WHILE_TRAINING = """\
Each point compares 5,000 generated images, or as many as there are test images, with as many random
test images, so that it takes a few seconds. The floor of fewer images is higher. Therefore the
multiples of the floor are lower here than in the tables, which compare up to 10,000 images. Recipes
that see labels have solid lines. Processors and precisions differ, so CPU times are rough.
"""


def write_page(records: Sequence[Record], plan: Plan) -> str:
    """Returns the page."""
    systems = read_systems()
    lines = INTRODUCTION.splitlines()
    if any(map(_compares_unequal_numbers, records)):
        lines += ["", *UNEQUAL.splitlines()]
    lines += ["", "## The systems", "", *_format_systems(systems)]
    if any(record.cpu_minutes is None for record in records):
        lines += ["", *OLDER.splitlines()]
    lines += _describe_curves(records)
    kinds = group(records)
    for dataset, by_recipe in kinds.items():
        ordered = order(by_recipe)
        lines += ["", f"## {dataset}", "", *_format_table(ordered, systems), *_warn(ordered)]
        if dataset == _DATA_OF_TARGETS:
            lines += ["", _compare_with_targets(ordered)]
        lines += ["", f"![Grids of {dataset}, in the order of the table](zoo/{dataset}.png)"]
        if any(RECIPES[runs[0].recipe].condition in {"class", "code"} for runs in ordered):
            lines += [
                "",
                "Where a recipe has classes or codes, each row of its grid is one of them.",
            ]
        lines += ["", *_write_paragraphs(ordered, systems)]
    lines += ["", *describe_measuring(kinds), "", *list_open_runs(records, plan.generators)]
    lines += [*describe_training(records)]
    return "\n".join(lines) + "\n"


def group(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Returns the records by data set, in the order of the recipes, and by recipe."""
    kinds: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        kinds.setdefault(record.dataset, {}).setdefault(record.recipe, []).append(record)
    return kinds


def order(by_recipe: dict[str, list[Record]]) -> list[list[Record]]:
    """Returns the runs of each recipe, the recipe of the lowest Frechet distance first."""
    return sorted(
        by_recipe.values(), key=lambda runs: _compute_mean([run.over_floor for run in runs])
    )


def list_curves(records: Sequence[Record]) -> dict[str, list[Curve]]:
    """Returns the runs that have a curve, by data set, those of the lowest distance first."""
    systems = read_systems()
    found = {
        dataset: [
            Curve(run, systems[run.recipe].labels != "none")
            for runs in order(by_recipe)
            for run in runs
            if run.curve
        ]
        for dataset, by_recipe in group(records).items()
    }
    return {dataset: curves for dataset, curves in found.items() if curves}


def get_curves_path(dataset: str) -> Path:
    """Returns the picture of the curves on a data set."""
    return PICTURES / f"curves-{dataset}.png"


def _describe_curves(records: Sequence[Record]) -> list[str]:
    """Returns the section of the curves; [] if no run has one."""
    found = list_curves(records)
    if not found:
        return []
    lines = ["", "## Quality while training", "", *WHILE_TRAINING.splitlines()]
    for dataset in found:
        path = get_curves_path(dataset)
        lines += ["", f"![Quality of all runs on {dataset}](zoo/{path.name})"]
    return lines


def _compute_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _format_systems(systems: dict[str, System]) -> list[str]:
    lines = [
        "| recipe | paper | loss | what restrains D | labels |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, each in sorted(systems.items(), key=lambda item: item[1].year):
        cells = [
            f"[{name}]({link_recipe(name)})",
            f"[{each.year}]({each.paper})",
            each.loss,
            each.restraint,
            each.labels,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _warn(ordered: Sequence[Sequence[Record]]) -> list[str]:
    """Returns a warning of a judge that is too weak, if there is one."""
    records = [run for runs in ordered for run in runs]
    weak = {
        accuracy
        for record in records
        for judge in record.judges
        for accuracy in map(float, re.findall(r"test accuracy ([0-9.]+)", judge))
        if accuracy < WEAK_JUDGE
    }
    if not weak:
        return []
    share = f"{min(weak):.2f}"
    return ["", f"The judge is right on only {share} of its test images, so distances are rough."]


def _compare_with_targets(ordered: Sequence[Sequence[Record]]) -> str:
    """Returns the targets, and the recipes that miss each by the first judge of their runs."""

    def find_missed(
        metric: str, compute: Callable[[EvaluationFigure], float], fails: Callable[[float], bool]
    ) -> str:
        recipes = []
        for runs in ordered:
            values = [compute(run.figures[metric]) for run in runs if metric in run.figures]
            mean = _compute_mean(values) if values else None
            if runs[0].recipe != _WITHOUT_TARGETS and mean is not None and fails(mean):
                recipes.append(f"`{runs[0].recipe}` ({mean:.3g})")
        return _join(recipes) or "no recipe"

    distance = find_missed("frechet_distance", divide_by_floor, lambda x: x > _MOST_FLOORS)
    coverage = find_missed("coverage", _get_value, lambda x: x < _LEAST_COVERAGE)
    accuracy = find_missed("class_accuracy", _get_value, lambda x: x < _LEAST_ACCURACY)
    return (
        f"The targets of all recipes but `{_WITHOUT_TARGETS}` are a Frechet distance of at most"
        f" {_MOST_FLOORS} times the floor and a coverage of at least {_LEAST_COVERAGE}, and for"
        f" classes that were asked for an accuracy of at least {_LEAST_ACCURACY}, under the first"
        f" judge of the row. The target of the distance is missed by {distance}; that of the"
        f" coverage by {coverage}; that of the accuracy by {accuracy}."
    )


def _get_value(figure: EvaluationFigure) -> float:
    return figure.value


def _join(names: Sequence[str]) -> str:
    """Returns names as a sentence has them, such as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _format_table(ordered: Sequence[Sequence[Record]], systems: dict[str, System]) -> list[str]:
    """Returns the table of a data set, without columns that no run has."""
    records = [run for runs in ordered for run in runs]
    others = sorted(
        {name.partition("@")[2] for record in records for name in record.figures} - {""}
    )
    letters = name_judges(records)
    columns: list[tuple[str, list[str], str]] = [
        (
            "labels",
            [systems[runs[0].recipe].labels for runs in ordered],
            "",
        ),
        (
            "judge",
            [letters[runs[0].judges] for runs in ordered] if len(letters) > 1 else [],
            "",
        ),
        (
            "Frechet, x floor",
            [_format_spread([r.over_floor for r in runs], ".3g") for runs in ordered],
            "1",
        ),
    ]
    for name in others:
        metric = f"frechet_distance@{name}"
        cells = [_format_figures(runs, metric, ".3g", divide_by_floor) for runs in ordered]
        columns.append((f"by {name}", cells, "1"))
    for title, metrics in _FIGURES.items():
        cells = [
            next(filter(None, (_format_figures(runs, metric) for metric in metrics)), "")
            for runs in ordered
        ]
        columns.append((title, cells, _find_reference(records, metrics)))
    columns += [
        ("images", [f"{runs[0].images:,}" for runs in ordered], ""),
        (
            "CPU min",
            [
                _format_spread([r.cpu_minutes for r in runs if r.cpu_minutes is not None], ".0f")
                for runs in ordered
            ],
            "",
        ),
        ("trained in", [runs[0].precision for runs in ordered], ""),
        ("ONNX", [f"{runs[0].model_bytes / 1e6:.1f} MB" for runs in ordered], ""),
        ("speed", [f"{runs[0].speed:.2f}" for runs in ordered], ""),
    ]
    shown = [column for column in columns if any(column[1])]
    names = [f"[{r[0].recipe}]({link_recipe(r[0].recipe)}){_mark(r)}" for r in ordered]
    rows = [
        [name, *cells] for name, *cells in zip(names, *(each[1] for each in shown), strict=True)
    ]
    rows.append(["real images", *(each[2] for each in shown)])
    heads = ["recipe", *(each[0] for each in shown)]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _find_reference(records: Sequence[Record], metrics: Sequence[str]) -> str:
    """Returns the figure of real images in the first record that has one."""
    for record in records:
        for metric in metrics:
            figure = record.figures.get(metric)
            if figure and figure.reference is not None:
                return f"{figure.reference:.3f}"
    return ""


def _mark(runs: Sequence[Record]) -> str:
    """Returns what limits the figures of a row, in parentheses; "" if nothing does."""
    words = []
    failures = [run for run in runs if run.failure]
    if failures:
        count = "" if len(failures) == len(runs) else f", {len(failures)} of {len(runs)} runs"
        words.append(f"ended early{count}")
    elif runs[0].images < RECIPES[runs[0].recipe].model_fields["images"].default:
        words.append("short")
    if any(map(_compares_unequal_numbers, runs)):
        words.append("unequal numbers")
    return f" ({', '.join(words)})" if words else ""


def _compares_unequal_numbers(record: Record) -> bool:
    """Returns whether all generated images were compared with another number of test images.

    Figures of older protocols name the number of test images; later ones have as many of each.
    """
    known = (record.figures.get(name) for name in ("frechet_distance", "coverage"))
    return any(
        int(number.replace(",", "")) != figure.sample_size
        for figure in known
        if figure
        for number in re.findall(r"([\d,]+) test images", f"{figure.method}; {figure.detail}")
    )


def _format_figures(
    runs: Sequence[Record],
    metric: str,
    form: str = ".3f",
    value: Callable[[EvaluationFigure], float] = _get_value,
) -> str:
    return _format_spread(
        [value(run.figures[metric]) for run in runs if metric in run.figures], form
    )


def _format_spread(values: Sequence[float], form: str) -> str:
    """Returns the mean, with the lowest and the highest if there are several; "" for none."""
    if not values:
        return ""
    mean = f"{_compute_mean(values):{form}}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):{form}} to {max(values):{form}})"


def link_recipe(name: str) -> str:
    """Returns the file of a recipe, as a link from docs/."""
    module = TABLE[name].location.partition(":")[0].replace(".", "/")
    return f"../training/imagemint/training/{module}.py"


def _write_paragraphs(ordered: Sequence[Sequence[Record]], systems: dict[str, System]) -> list[str]:
    lines: list[str] = []
    for runs in ordered:
        name = runs[0].recipe
        system = systems[name]
        remarks = " ".join(dict.fromkeys(run.remark for run in runs if run.remark))
        ends = [f"Seed {run.seed} ended early: {run.failure}." for run in runs if run.failure]
        observations = " ".join(part for part in (remarks, *ends) if part)
        paragraph = f"{system.text} *In the run:* {observations}" if observations else system.text
        lines += [f"**{name}** ([paper]({system.paper})). {paragraph}", ""]
        if name == "vanilla-mnist" and STORY.exists():
            lines += [f"![Grids, single images and losses of {name}](zoo/{STORY.name})", ""]
            lines += [
                _COLLAPSE_TEXT,
                "",
                f"![Digits and coverage of {name}](zoo/{COLLAPSE.name})",
                "",
            ]
    return lines[:-1]


def describe_quality(record: Record) -> str:
    """Returns a run's figures in a few words, for `imagemint train --list`."""
    words = []
    for metric, name in (
        ("class_accuracy", "class accuracy"),
        ("code_class_accuracy", "code accuracy"),
        ("modes", "modes"),
        ("reverse_kl", "reverse KL"),
    ):
        if metric in record.figures and (metric, record.figures[metric].reference) != (
            "modes",
            10.0,
        ):
            words.append(f"{name} {record.figures[metric].value:.4g}")
    words.append(f"Frechet distance {record.over_floor:.3g} x its floor")
    words.append(f"coverage {record.figures['coverage'].value:.3g}")
    return ", ".join(words)


def write_list(records: Sequence[Record]) -> str:
    """Returns what `imagemint train --list` reads: one run of each recipe.

    It is a run on the data set of the recipe if there is one, and that with the first seed.
    """
    shown = sorted(
        records, key=lambda each: (each.dataset != TABLE[each.recipe].dataset, each.seed)
    )
    content = {
        each.recipe: {
            "images": each.images,
            "full_images": RECIPES[each.recipe].model_fields["images"].default,
            "minutes": each.minutes,
            "machine": each.machine,
            "quality": describe_quality(each),
            "command": each.command,
        }
        for each in reversed(shown)  # of several the last one stays
    }
    names = [name for name in RECIPES if name in content]
    return json.dumps({name: content[name] for name in names}, indent=2) + "\n"
