"""Records of real runs of translators: what was trained, what it reached, and what it cost."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from zoo_records import ROOT

from imagemint.training.evaluation_report import EvaluationFigure, read_report
from imagemint.training.loop.monitor import read_log
from imagemint.training.loop.resume import read_settings
from imagemint.training.recipes import TRANSLATION_RECIPES, TRANSLATION_TABLE
from imagemint.training.translators import read_translator
from imagemint.training.whole_files import write_whole

RECORDS = ROOT / "benchmarks/results/translation"
_SHOWN = 8  # rows of a picture
_SHEET = "evaluation/pairs.png"  # as `imagemint evaluate RUN` leaves it


@dataclass(frozen=True)
class Record:
    """A run that was made and measured.

    Attributes:
        name: of its files.
        recipe: its name.
        options: those that differ from the defaults of the recipe, as flags.
        dataset: task, data set and split.
        images: sources shown to G.
        full_images: the same by the recipe's default.
        cpu_minutes: CPU time of training.
        machine: it was trained on.
        revision: of the code.
        parameters: of the translator.
        remark: what was seen.
        figures: of the run and the baselines.
        failure: why the run ended before its length; empty for a run that came to its end.
    """

    name: str
    recipe: str
    options: str
    dataset: str
    images: int
    full_images: int
    cpu_minutes: float
    machine: str
    revision: str
    parameters: int
    remark: str
    figures: list[EvaluationFigure]
    failure: str = ""

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Returns the record in a file."""
        content = json.loads(path.read_text())
        figures = [EvaluationFigure.from_json(figure) for figure in content["figures"]]
        return cls(**content | {"figures": figures})

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that measured it, as the protocol names them."""
        found = (judge for figure in self.figures for judge in figure.setup.judges)
        return tuple(dict.fromkeys(found))


def read_records(folder: Path = RECORDS) -> list[Record]:
    """Returns every record, in the order of the recipes."""
    order = list(TRANSLATION_TABLE)
    found = [Record.read(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda record: (order.index(record.recipe), record.name))


def record(
    run: Path, *, name: str, machine: str, remark: str, failure: str = "", folder: Path = RECORDS
) -> Path:
    """Writes the record of a run that was trained and evaluated, and keeps its picture.

    Args:
        run: folder of the run.
        name: name of the record.
        machine: machine that trained.
        remark: what was seen in the run.
        failure: why the run ended before its length.
        folder: folder of the records.

    Returns:
        The file of the record. The picture lies beside it.
    """
    trained = read_translator(run)
    figures = read_report(run / "evaluation/figures.json", trained.weights_sha256)
    if not figures or not (run / _SHEET).exists():
        raise SystemExit(
            f"{run}: no figures or no pictures of these weights; first"
            f" `imagemint evaluate {run} --classifier JUDGE`"
        )
    rows = read_log(run)
    found = Record(
        name=name,
        recipe=trained.recipe,
        options=_spell_options(run, trained.recipe, trained.options),
        dataset=trained.dataset,
        images=trained.images_seen,
        full_images=TRANSLATION_RECIPES[trained.recipe].model_fields["images"].default,
        cpu_minutes=sum(row["cpu_s"] for row in rows) / 60,
        machine=machine,
        revision=trained.code_revision,
        parameters=sum(parameter.numel() for parameter in trained.module.parameters()),
        remark=remark,
        figures=list(figures),
        failure=failure,
    )
    path = folder / f"{name}.json"
    write_whole(path, (json.dumps(asdict(found), indent=2) + "\n").encode())
    with Image.open(run / _SHEET) as sheet:
        height = min(sheet.height, _SHOWN * trained.target_shape[0])
        sheet.crop((0, 0, sheet.width, height)).save(path.with_suffix(".png"), optimize=True)
    return path


def _spell_options(run: Path, recipe: str, options: dict[str, Any]) -> str:
    """Returns the options of a run that differ from the defaults of its recipe, as flags."""
    fields = TRANSLATION_RECIPES[recipe].model_fields
    changed = {
        key: value
        for key, value in options.items()
        if key in fields and value != fields[key].default
    }
    settings = read_settings(run)
    if (precision := settings.get("precision", "auto")) != "auto":
        changed |= {"precision": precision}
    dataset = settings.get("dataset")
    if dataset not in (None, TRANSLATION_TABLE[recipe].dataset):
        changed = {"dataset": dataset} | changed
    return " ".join(f"--{key.replace('_', '-')} {_spell(value)}" for key, value in changed.items())


def _spell(value: object) -> str:
    return Path(str(value)).name if isinstance(value, str) and "/" in value else str(value)
