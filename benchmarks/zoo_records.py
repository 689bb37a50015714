"""Records of real runs: what was trained, what it reached, and what it cost."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.training.evaluation_report import EvaluationFigure, read_report
from imagemint.training.loop.monitor import read_log
from imagemint.training.recipes import RECIPES, TABLE, TRANSLATION_TABLE, Entry
from imagemint.training.trained import read_generator
from imagemint.training.whole_files import write_whole

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/results/zoo"
MACHINE = f"{len(os.sched_getaffinity(0))} CPU cores ({torch.backends.cpu.get_cpu_capability()})"
WIDEST = 480  # pixels of a grid that is kept
_SHIPPED = ROOT / "models/mnist/1"
_BATCH, _ROUNDS, _SECONDS = 64, 5, 0.5
_GRID = "evaluation/grid.png"  # as `imagemint evaluate RUN` leaves it
_CURVE = ("frechet_over_floor", "coverage", "class_accuracy", "modes")

Point = dict[str, float]


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
        revision: revision of the code.
        parameters: parameters of the generator, all its weights.
        model_bytes: size of the exported graph.
        speed: speed of the exported graph on the CPU at batch 64, as a multiple of the shipped
            digits'.
        figures: by `imagemint evaluate`, by their names.
        remark: what was seen.
        dataset: that it was trained on.
        seed: seed of the run.
        cpu_minutes: CPU time of training, all threads together; None where the log has none.
        curve: figures during the run, with ``images`` and ``cpu_minutes``; [] where the log has
            none.
        failure: why the run ended before its length; empty for a run that came to its end.
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
    dataset: str
    seed: int = 0
    cpu_minutes: float | None = None
    curve: list[Point] = field(default_factory=list)
    failure: str = ""

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Returns the record in a file."""
        content = json.loads(path.read_text())
        figures = {
            name: EvaluationFigure.from_json(each) for name, each in content["figures"].items()
        }
        return cls(**content | {"figures": figures})

    @property
    def name(self) -> str:
        """The stem of its files; see `name_run`."""
        return name_run(self.recipe, self.dataset, self.seed)

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that measured it, the main one first, as the protocol names them."""
        found = (
            judge
            for name, figure in self.figures.items()
            if name.partition("@")[0] == "frechet_distance"
            for judge in figure.setup.judges
        )
        return tuple(dict.fromkeys(found))

    @property
    def precision(self) -> str:
        """The precision of the training: that of the command, or float32."""
        words = self.command.split()
        return words[words.index("--precision") + 1] if "--precision" in words else "fp32"

    @property
    def over_floor(self) -> float:
        """The Frechet distance as a multiple of that between real images."""
        return divide_by_floor(self.figures["frechet_distance"])


def name_run(recipe: str, dataset: str, seed: int) -> str:
    """Returns the name of a run: the recipe, another data set than its default, a seed but 0."""
    parts = [recipe]
    parts += [dataset] if dataset != find_entry(recipe).dataset else []
    parts += [f"seed{seed}"] if seed else []
    return "-".join(parts)


def find_entry(recipe: str) -> Entry:
    """Returns the entry of a recipe of a generator or translator.

    Raises:
        KeyError: no such recipe trains either of them.
    """
    return (TABLE | TRANSLATION_TABLE)[recipe]


def divide_by_floor(figure: EvaluationFigure) -> float:
    """Returns a distance as a multiple of its reference.

    Raises:
        ValueError: it has none.
    """
    if not figure.reference:
        raise ValueError(f"{figure.metric} has no floor")
    return figure.value / figure.reference


def read_records(folder: Path = RECORDS) -> list[Record]:
    """Returns every record, in the order of the recipes and their seeds."""
    order = list(RECIPES)
    found = [Record.read(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda each: (order.index(each.recipe), each.dataset, each.seed))


def record(run: Path, *, machine: str, command: str | None, remark: str, failure: str = "") -> Path:
    """Writes the record of a run that was trained and evaluated, and keeps its grid.

    Returns:
        The file of the record. The grid lies beside it.
    """
    metadata = json.loads((run / "options.json").read_text())
    trained = read_generator(run)
    figures = read_report(run / "evaluation.json", trained.weights_sha256)
    if not figures or not (run / _GRID).exists():
        sys.exit(f"{run}: no figures or no grid of these weights; first `imagemint evaluate {run}`")
    rows = read_log(run)
    interval = metadata["schedule"]["log_interval"]
    cpu_s = [row["cpu_s"] for row in rows if "cpu_s" in row]
    with tempfile.TemporaryDirectory() as folder:
        bundle = _export(run, Path(folder))
        found = Record(
            recipe=metadata["recipe"],
            command=command or spell_command(metadata),
            images=trained.images_seen,
            minutes=round(sum(interval / row["images_per_s"] for row in rows) / 60, 1),
            images_per_s=round(statistics.median(row["images_per_s"] for row in rows)),
            machine=machine,
            revision=metadata["code_revision"],
            parameters=sum(weight.numel() for weight in trained.module.parameters()),
            model_bytes=(bundle / "model.onnx").stat().st_size,
            speed=round(_compare_speed(bundle), 2),
            figures={figure.metric: figure for figure in figures},
            remark=remark,
            dataset=metadata["dataset"].partition("/")[0],
            seed=metadata["options"]["seed"],
            cpu_minutes=round(sum(cpu_s) / 60, 1) if len(cpu_s) == len(rows) else None,
            curve=read_curve(rows),
            failure=failure,
        )
    path = RECORDS / f"{found.name}.json"
    write_whole(path, (json.dumps(asdict(found), indent=2) + "\n").encode())
    with Image.open(run / _GRID) as grid:
        half = grid.width // 2 if grid.width > WIDEST else grid.width
        grid.crop((0, 0, half, grid.height * half // grid.width)).save(
            path.with_suffix(".png"), optimize=True
        )
    return path


def set_remark(name: str, remark: str, folder: Path = RECORDS) -> None:
    """Says in the record with this name what was seen in the run.

    Raises:
        FileNotFoundError: there is no such record.
    """
    path = folder / f"{name}.json"
    content = json.loads(path.read_text()) | {"remark": remark}
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def read_curve(rows: list[dict[str, float]]) -> list[Point]:
    """Returns the figures during a run from the rows of its log, with images and CPU minutes."""
    points: list[Point] = []
    cpu_s = 0.0
    for row in rows:
        cpu_s += row.get("cpu_s", float("nan"))
        if "frechet_over_floor" not in row:
            continue
        point: Point = {"images": row["images"]}
        if np.isfinite(cpu_s):
            point["cpu_minutes"] = round(cpu_s / 60, 2)
        points.append(point | {name: round(row[name], 4) for name in _CURVE if name in row})
    return points


def spell_command(metadata: dict[str, Any]) -> str:
    """Returns the command that trains a run, with the options that differ from the recipe's."""
    name, options = metadata["recipe"], metadata["options"]
    usual = {key: model_field.default for key, model_field in RECIPES[name].model_fields.items()}
    flags = [
        f" --{key.replace('_', '-')} {value}"
        for key, value in options.items()
        if value != usual.get(key)
    ]
    dataset = str(metadata.get("dataset", TABLE[name].dataset)).partition("/")[0]
    flags += [f" --dataset {dataset}"] if dataset != TABLE[name].dataset else []
    precision = metadata.get("precision", "fp32")
    flags += [f" --precision {precision}"] if precision != "fp32" else []
    return f"imagemint train {name} --out runs/{name}" + "".join(flags)


def _export(run: Path, repository: Path) -> Path:
    """Exports a run as people do; returns the bundle."""
    recipe: str = json.loads((run / "options.json").read_text())["recipe"]
    tool = Path(sys.executable).with_name("imagemint")
    command: list[str | Path] = [tool, "export", run, "--name", recipe, "--repository", repository]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
    return repository / recipe / "1"


def _compare_speed(bundle: Path) -> float:
    """Returns the bundle's images/s over those of the shipped digits, in turn."""
    exported, shipped = _Runner(bundle), _Runner(_SHIPPED)
    return statistics.median(
        exported.measure_rate() / shipped.measure_rate() for _ in range(_ROUNDS)
    )


class _Runner:
    """A bundle in one session with one thread, and a batch for it."""

    def __init__(self, directory: Path) -> None:
        bundle = read_bundle(directory)
        self._instance = OnnxBackend(bundle, device="cpu").open_instance()
        self._batch = draw_batch(bundle.spec, 0, 0, _BATCH)
        self._instance.run(self._batch)

    def measure_rate(self) -> float:
        """Returns images per second."""
        began, done = time.perf_counter(), 0
        while (elapsed_s := time.perf_counter() - began) < _SECONDS:
            self._instance.run(self._batch)
            done += _BATCH
        return done / elapsed_s
