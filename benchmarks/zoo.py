"""Keeps the record of real runs, one of each recipe, and writes the page that shows them together.

A run is trained and measured by the commands that the page names; `record` notes down what came of
it: options, time, figures, the first images, and what the exported bundle weighs and how fast it
runs, as a ratio to the shipped digits measured in turn with it, since machines drift.

    imagemint train dcgan --out runs/dcgan --images 100000
    imagemint evaluate runs/dcgan --classifier runs/classifier
    python benchmarks/zoo.py record runs/dcgan --remark "..."
    python benchmarks/zoo.py page
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.training.evaluation_report import EvaluationFigure, read_report
from imagemint.training.recipes import RECIPES
from imagemint.training.trained import read_generator

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/results/zoo"
PAGE = ROOT / "docs/zoo.md"
PICTURES = ROOT / "docs/zoo"
LIST = ROOT / "training/imagemint/training/recipes/recorded.json"
SHIPPED = ROOT / "models/mnist/1"
BATCH, ROUNDS, SECONDS = 64, 5, 0.5
PICTURE = "evaluation/grid.png"  # as `imagemint evaluate RUN` leaves it
WIDEST = 480  # pixels of a picture that a cell of the page can show
INTRODUCTION = """\
<!-- Written by `python benchmarks/zoo.py page` from benchmarks/results/zoo. -->
# The zoo

Every recipe of `imagemint train --list`, trained for real, measured by one protocol and shown side
by side. Grids show the first images of seed 0, unselected; where there are classes, a row is one.

```sh
imagemint train NAME --out runs/NAME ...        # the command of the last table
imagemint evaluate runs/NAME --classifier runs/classifier
python benchmarks/zoo.py record runs/NAME --remark "what was seen"
python benchmarks/zoo.py page
```

Most runs are short: they show that each member of the family works and what it costs, not what it
could reach. One seed each, so small differences mean nothing. Distances on different data sets are
of different features; only multiples of the floor (real images in place of generated ones) may be
compared, with care.
"""
COLUMNS = """\
*images* are real images shown to the discriminator, counted with repetition; *min* and *images/s*
are of training, on cores that other work shared; *weights* and *ONNX* are of the generator; *speed*
is that of the exported graph at batch 64 in one CPU thread, as a multiple of `models/mnist/1`
measured in turn with it.
"""


@dataclass(frozen=True)
class Record:
    """A run that was made and measured.

    Attributes:
        recipe: its name.
        command: that trains it.
        images: real images shown to D.
        minutes: that the steps took; checkpoints and grids come on top.
        images_per_s: in training, the median over the rows of the log.
        machine: it was trained on.
        revision: of the code.
        parameters: of the generator, all its weights.
        model_bytes: of the exported graph.
        speed: of the exported graph on the CPU at batch 64, as a multiple of the shipped digits'.
        figures: by `imagemint evaluate`, by their names.
        remark: what its maker has to say, the bad things too.
    """

    recipe: str
    command: str
    images: int
    minutes: float
    images_per_s: float
    machine: str
    revision: str
    parameters: int
    model_bytes: int
    speed: float
    figures: dict[str, EvaluationFigure]
    remark: str

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Returns the record in a file."""
        content = json.loads(path.read_text())
        figures = {name: EvaluationFigure(**each) for name, each in content["figures"].items()}
        return cls(**content | {"figures": figures})


def record(run: Path, machine: str, command: str | None, remark: str) -> None:
    """Writes down a run that was trained and evaluated, and keeps its first images."""
    about = json.loads((run / "options.json").read_text())
    trained = read_generator(run)
    figures = read_report(run / "evaluation.json", trained.weights_sha256)
    if not figures or not (run / PICTURE).exists():
        sys.exit(f"{run}: no figures or no grid of these weights; first `imagemint evaluate {run}`")
    rows = [json.loads(row) for row in (run / "log.jsonl").read_text().splitlines()]
    interval = about["schedule"]["log_interval"]
    with tempfile.TemporaryDirectory() as folder:
        bundle = exported(run, Path(folder))
        found = Record(
            recipe=about["recipe"],
            command=command or command_of(about),
            images=trained.images_seen,
            minutes=round(sum(interval / row["images_per_s"] for row in rows) / 60, 1),
            images_per_s=round(statistics.median(row["images_per_s"] for row in rows)),
            machine=machine,
            revision=about["code_revision"],
            parameters=sum(weight.numel() for weight in trained.module.parameters()),
            model_bytes=(bundle / "model.onnx").stat().st_size,
            speed=round(speed(bundle), 2),
            figures={figure.metric: figure for figure in figures},
            remark=remark,
        )
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{found.recipe}.json"
    path.write_text(json.dumps(asdict(found), indent=2) + "\n")
    PICTURES.mkdir(exist_ok=True)
    with Image.open(run / PICTURE) as grid:
        half = grid.width // 2 if grid.width > WIDEST else grid.width
        grid.crop((0, 0, half, grid.height * half // grid.width)).save(
            PICTURES / f"{found.recipe}.png", optimize=True
        )
    print(f"{path.relative_to(ROOT)}: {quality(found)}")


def command_of(about: dict[str, Any]) -> str:
    """Returns the command that trains a run, with the options that differ from the recipe's."""
    name, given = about["recipe"], about["options"]
    usual = {key: each.default for key, each in RECIPES[name].model_fields.items()}
    options = [
        f" --{key.replace('_', '-')} {value}"
        for key, value in given.items()
        if value != usual.get(key)
    ]
    return f"imagemint train {name} --out runs/{name}" + "".join(options)


def exported(run: Path, repository: Path) -> Path:
    """Exports a run as people do; returns the bundle."""
    recipe: str = json.loads((run / "options.json").read_text())["recipe"]
    tool = Path(sys.executable).with_name("imagemint")
    told: list[str | Path] = [tool, "export", run, "--name", recipe, "--repository", repository]
    subprocess.run(told, check=True, capture_output=True)  # noqa: S603 - our own command
    return repository / recipe / "1"


def speed(bundle: Path) -> float:
    """Returns the bundle's images/s over those of the shipped digits, in turn."""
    mine, shipped = Runner(bundle), Runner(SHIPPED)
    return statistics.median(mine.rate() / shipped.rate() for _ in range(ROUNDS))


class Runner:
    """A bundle in one session with one thread, and a batch for it."""

    def __init__(self, directory: Path) -> None:
        bundle = read_bundle(directory)
        self._instance = OnnxBackend(bundle, device="cpu").open_instance()
        self._batch = draw_batch(bundle.spec, 0, 0, BATCH)
        self._instance.run(self._batch)

    def rate(self) -> float:
        """Returns images per second."""
        began, done = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < SECONDS:
            self._instance.run(self._batch)
            done += BATCH
        return done / took


def quality(of: Record) -> str:
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
    words.append(f"Frechet distance {over_floor(of):.3g} x its floor")
    words.append(f"coverage {of.figures['coverage'].value:.3g}")
    return ", ".join(words)


def over_floor(of: Record) -> float:
    """Returns the Frechet distance as a multiple of that between real images."""
    figure = of.figures["frechet_distance"]
    if not figure.reference:
        raise ValueError(f"{of.recipe}: frechet_distance has no floor")
    return figure.value / figure.reference


def page(records: Iterable[Record]) -> str:
    """Returns the page of all runs, by data set."""
    known = {each.recipe: each for each in records}
    kinds: dict[str, list[Record]] = {}
    for name, recipe in RECIPES.items():
        if name in known:
            kinds.setdefault(recipe.dataset, []).append(known[name])
    lines = INTRODUCTION.splitlines()
    for dataset, runs in kinds.items():
        lines += ["", f"## {dataset}", "", *_table(runs), "", *_grids(runs)]
    lines += ["", "## What was seen", ""]
    lines += [
        f"- `{each.recipe}`: {each.remark}"
        for runs in kinds.values()
        for each in runs
        if each.remark
    ]
    lines += ["", "## Commands and protocols", "", "| recipe | command | machine | code |"]
    lines += ["| --- | --- | --- | --- |"]
    for runs in kinds.values():
        lines += [
            f"| {each.recipe} | `{each.command}` | {each.machine} | {each.revision[:7]} |"
            for each in runs
        ]
    lines += ["", *_protocols(kinds)]
    return "\n".join(lines) + "\n"


def _table(runs: list[Record]) -> list[str]:
    heads = ["recipe", "Frechet, x floor", "coverage", "precision", "recall", "accuracy"]
    heads += ["reverse KL", "images", "min", "images/s", "weights", "ONNX", "speed"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for each in runs:
        cells = [
            each.recipe,
            f"{over_floor(each):.3g}",
            *(_cell(each, metric) for metric in ("coverage", "precision", "recall")),
            _cell(each, "class_accuracy") or _cell(each, "code_class_accuracy"),
            _cell(each, "reverse_kl"),
            f"{each.images:,}",
            f"{each.minutes:.0f}",
            f"{each.images_per_s:,.0f}",
            f"{each.parameters / 1e6:.2f} M",
            f"{each.model_bytes / 1e6:.1f} MB",
            f"{each.speed:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    floor = runs[0].figures
    real = [
        f"{figure.reference:.3f}" if figure and figure.reference is not None else ""
        for figure in map(floor.get, ("coverage", "precision", "recall"))
    ]
    lines.append("| real images | 1 | " + " | ".join(real) + " |" + " |" * 8)
    return lines


def _cell(of: Record, metric: str) -> str:
    return f"{of.figures[metric].value:.3f}" if metric in of.figures else ""


def _grids(runs: list[Record]) -> list[str]:
    lines: list[str] = []
    for first in range(0, len(runs), 3):
        few = runs[first : first + 3]
        lines += [
            "| " + " | ".join(each.recipe for each in few) + " |",
            "| " + " | ".join("---" for _ in few) + " |",
            "| "
            + " | ".join(f"![{each.recipe}: first images](zoo/{each.recipe}.png)" for each in few)
            + " |",
            "",
        ]
    return lines[:-1]


def _protocols(kinds: dict[str, list[Record]]) -> list[str]:
    lines = [*COLUMNS.splitlines(), ""]
    for dataset, runs in kinds.items():
        lines += [f"On {dataset}:", ""]
        lines += [
            f"- {metric}: {figure.protocol} ({figure.sample_size:,} images)"
            for metric, figure in runs[0].figures.items()
            if metric in ("frechet_distance", "coverage", "precision", "reverse_kl")
        ]
        lines.append("")
    return lines[:-1]


def listed(records: Iterable[Record]) -> str:
    """Returns what `imagemint train --list` reads."""
    content = {
        each.recipe: {
            "images": each.images,
            "full_images": RECIPES[each.recipe].model_fields["images"].default,
            "minutes": each.minutes,
            "machine": each.machine,
            "quality": quality(each),
            "command": each.command,
        }
        for each in records
    }
    return json.dumps(content, indent=2) + "\n"


def records() -> list[Record]:
    """Returns every record, in the order of the recipes."""
    return [Record.read(path) for name in RECIPES if (path := RECORDS / f"{name}.json").exists()]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    noting = commands.add_parser("record", help="note down a run that was trained and evaluated")
    noting.add_argument("run", type=Path)
    noting.add_argument("--machine", default="two CPU cores (AVX-512)")
    noting.add_argument(
        "--command", dest="told", help="that trained it, if not by its options alone"
    )
    noting.add_argument("--remark", default="", help="what is to be said of it")
    commands.add_parser("page", help="write docs/zoo.md and the list of `imagemint train --list`")
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.run, arguments.machine, arguments.told, arguments.remark)
        return
    PAGE.write_text(page(records()))
    LIST.write_text(listed(records()))


if __name__ == "__main__":
    main()
