"""Writes docs/zoo.md from the records, and the list of `imagemint train --list`."""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zoo_methods import describe_measuring, describe_training, list_open_runs
from zoo_queue import PLAN, Plan
from zoo_records import ROOT, Record, divide_by_floor

from imagemint.training.evaluation_report import EvaluationFigure
from imagemint.training.recipes import RECIPES, TABLE

PAGE = ROOT / "docs/zoo.md"
PICTURES = ROOT / "docs/zoo"
LIST = ROOT / "training/imagemint/training/recipes/recorded.json"
CURVES = PICTURES / "curves.png"
STORY = PICTURES / "vanilla-mnist-story.png"

INTRODUCTION = """\
<!-- Written by `python benchmarks/zoo.py page` from results/zoo and zoo.toml in benchmarks/. -->
# The zoo

Every recipe of a generator with real runs, measured by one protocol, the best first. Recipes
whose input is an image have [a page of their own](zoo-translation.md), which also says what 3D
from a photo would take here.

A *Frechet distance* of 1 x the floor means that the judge cannot tell generated images from real
ones; *coverage* is the share of real images that have a generated one nearby. Distances on
different data sets are of different features, so compare only within a table. Where a recipe has
runs with several seeds, a figure is their mean, with the lowest and the highest in parentheses.
With one seed, small differences mean nothing. A run that is shorter than the default of its
recipe is marked *short*: it shows that the method works and what it costs, not what it can reach.
"""


@dataclass(frozen=True)
class System:
    """What is said of a recipe: its paper, and what to look for."""

    paper: str
    text: str


def read_systems() -> dict[str, System]:
    """Returns what is said of each recipe, by its name."""
    systems = tomllib.loads(PLAN.read_text())["systems"]
    return {name: System(each["paper"], each["text"].strip()) for name, each in systems.items()}


OLDER = """\
Records without CPU time are older than the changes that
[notes/recipes-against-papers.md](notes/recipes-against-papers.md) lists. Their class embedding, for
example, had 64 numbers instead of 8, with which `cgan`, `acgan` and `infogan` draw one image for
each class.
"""


WHILE_TRAINING = """\
Each point compares 5,000 generated images with 5,000 random test images, so that it takes a few
seconds. The floor of so few images is higher, so multiples are lower than in the tables, which
compare 10,000 images: 66 instead of 99 for `vanilla-mnist`.

![Quality of all runs](zoo/curves.png)
"""


def write_page(records: Sequence[Record], plan: Plan) -> str:
    """Returns the page."""
    systems = read_systems()
    lines = INTRODUCTION.splitlines()
    if any(each.cpu_minutes is None for each in records):
        lines += ["", *OLDER.splitlines()]
    if any(each.curve for each in records):
        lines += ["", "## Quality while training", "", *WHILE_TRAINING.splitlines()]
    kinds = group(records)
    for dataset, by_recipe in kinds.items():
        ordered = order(by_recipe)
        lines += ["", f"## {dataset}", "", *_format_table(ordered)]
        lines += ["", f"![Grids of {dataset}, in the order of the table](zoo/{dataset}.png)"]
        lines += ["", *_write_paragraphs(ordered, systems)]
    lines += ["", *describe_measuring(kinds), "", *list_open_runs(records, plan)]
    lines += [*describe_training(records)]
    return "\n".join(lines) + "\n"


def group(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Returns the records by data set, in the order of the recipes, and by recipe."""
    kinds: dict[str, dict[str, list[Record]]] = {}
    for each in records:
        kinds.setdefault(each.dataset, {}).setdefault(each.recipe, []).append(each)
    return kinds


def order(by_recipe: dict[str, list[Record]]) -> list[list[Record]]:
    """Returns the runs of each recipe, the recipe of the lowest Frechet distance first."""
    return sorted(
        by_recipe.values(), key=lambda runs: _compute_mean([each.over_floor for each in runs])
    )


def _compute_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _format_table(ordered: Sequence[Sequence[Record]]) -> list[str]:
    others = sorted(
        {name.partition("@")[2] for runs in ordered for each in runs for name in each.figures}
        - {""}
    )
    heads = ["recipe", "Frechet, x floor", *(f"by {name}" for name in others)]
    heads += ["coverage", "precision", "recall", "accuracy", "reverse KL"]
    heads += ["images", "min", "CPU min", "weights", "ONNX", "speed"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for runs in ordered:
        first = runs[0]
        cells = [
            f"[{first.recipe}]({link_recipe(first.recipe)}){_mark(runs)}",
            _format_spread([each.over_floor for each in runs], ".3g"),
            *(
                _format_figures(runs, f"frechet_distance@{name}", ".3g", divide_by_floor)
                for name in others
            ),
            *(_format_figures(runs, metric) for metric in ("coverage", "precision", "recall")),
            _format_figures(runs, "class_accuracy") or _format_figures(runs, "code_class_accuracy"),
            _format_figures(runs, "reverse_kl"),
            f"{first.images:,}",
            _format_spread([each.minutes for each in runs], ".0f"),
            _format_spread(
                [each.cpu_minutes for each in runs if each.cpu_minutes is not None], ".0f"
            ),
            f"{first.parameters / 1e6:.2f} M",
            f"{first.model_bytes / 1e6:.1f} MB",
            f"{first.speed:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    floor = ordered[0][0].figures
    real = [
        f"{figure.reference:.3f}" if figure and figure.reference is not None else ""
        for figure in map(floor.get, ("coverage", "precision", "recall"))
    ]
    empty = len(heads) - 2 - len(others) - len(real)
    cells = ["real images", *["1"] * (1 + len(others)), *real]
    lines.append("| " + " | ".join(cells) + " |" + " |" * empty)
    return lines


def _mark(runs: Sequence[Record]) -> str:
    failures = [each for each in runs if each.failure]
    if failures:
        count = "" if len(failures) == len(runs) else f", {len(failures)} of {len(runs)} runs"
        return f" (ended early{count})"
    full = RECIPES[runs[0].recipe].model_fields["images"].default
    return " (short)" if runs[0].images < full else ""


def _format_figures(
    runs: Sequence[Record],
    metric: str,
    form: str = ".3f",
    value: Callable[[EvaluationFigure], float] = lambda figure: figure.value,
) -> str:
    return _format_spread(
        [value(each.figures[metric]) for each in runs if metric in each.figures], form
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
    module = TABLE[name].where.partition(":")[0].replace(".", "/")
    return f"../training/imagemint/training/{module}.py"


def _write_paragraphs(ordered: Sequence[Sequence[Record]], systems: dict[str, System]) -> list[str]:
    lines: list[str] = []
    for runs in ordered:
        name = runs[0].recipe
        system = systems[name]
        seen = " ".join(dict.fromkeys(each.remark for each in runs if each.remark))
        ends = [f"Seed {each.seed} ended early: {each.failure}." for each in runs if each.failure]
        told = " ".join(part for part in (seen, *ends) if part)
        said = f"{system.text} *In the run:* {told}" if told else system.text
        lines += [f"**{name}** ([paper]({system.paper})). {said}", ""]
        if name == "vanilla-mnist" and STORY.exists():
            lines += [f"![Grids, single images and losses of {name}](zoo/{STORY.name})", ""]
    return lines[:-1]


def describe_quality(of: Record) -> str:
    """Returns a run's figures in a few words, for `imagemint train --list`."""
    words = []
    for metric, name in (
        ("class_accuracy", "class accuracy"),
        ("code_class_accuracy", "code accuracy"),
        ("modes", "modes"),
        ("reverse_kl", "reverse KL"),
    ):
        if metric in of.figures and (metric, of.figures[metric].reference) != ("modes", 10.0):
            words.append(f"{name} {of.figures[metric].value:.4g}")
    words.append(f"Frechet distance {of.over_floor:.3g} x its floor")
    words.append(f"coverage {of.figures['coverage'].value:.3g}")
    return ", ".join(words)


def write_list(records: Sequence[Record]) -> str:
    """Returns what `imagemint train --list` reads: the first seed of each recipe."""
    content = {
        each.recipe: {
            "images": each.images,
            "full_images": RECIPES[each.recipe].model_fields["images"].default,
            "minutes": each.minutes,
            "machine": each.machine,
            "quality": describe_quality(each),
            "command": each.command,
        }
        for each in reversed(records)
    }
    names = [name for name in RECIPES if name in content]
    return json.dumps({name: content[name] for name in names}, indent=2) + "\n"
