"""The zoo of translators: records of real runs, and the page docs/zoo-translation.md.

    python benchmarks/translation_zoo.py record runs/pix2pix --remark "what was seen"
    python benchmarks/translation_zoo.py page

A run is recorded after `imagemint evaluate RUN --classifier JUDGE`, which measures it beside its
baselines and draws sources, results and truths.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from translation_zoo_page import Record, list_baselines, write_page

from imagemint.training.evaluation_report import read_report
from imagemint.training.loop.monitor import read_log
from imagemint.training.loop.resume import read_settings
from imagemint.training.recipes import TRANSLATION_RECIPES, TRANSLATION_TABLE
from imagemint.training.translators import read_translator

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/results/translation"
PAGE = ROOT / "docs/zoo-translation.md"
PICTURES = ROOT / "docs/zoo"
LIST = ROOT / "training/imagemint/training/recipes/recorded_translators.json"
MACHINE = f"{len(os.sched_getaffinity(0))} CPU cores ({torch.backends.cpu.get_cpu_capability()})"
_SHOWN = 8  # rows of a picture
_COLUMN, _HEADING = 128, 24  # width of a column and height of the headings, in pixels


def record(run: Path, remark: str, name: str | None) -> Record:
    """Records an evaluated run, with its picture."""
    trained = read_translator(run)
    figures = read_report(run / "evaluation/figures.json", trained.weights_sha256)
    if not figures:
        raise SystemExit(f"{run} is not evaluated: imagemint evaluate {run} --classifier JUDGE")
    rows = read_log(run)
    fields = TRANSLATION_RECIPES[trained.recipe].model_fields
    changed = {
        key: value
        for key, value in trained.options.items()
        if key in fields and value != fields[key].default
    }
    settings = read_settings(run)
    if (precision := settings.get("precision", "auto")) != "auto":
        changed |= {"precision": precision}
    dataset = settings.get("dataset")
    if dataset not in (None, TRANSLATION_TABLE[trained.recipe].dataset):
        changed = {"dataset": dataset} | changed
    flags = [f"--{key.replace('_', '-')} {_spell(value)}" for key, value in changed.items()]
    found = Record(
        name=name or trained.recipe,
        recipe=trained.recipe,
        options=" ".join(flags),
        dataset=trained.dataset,
        images=trained.images_seen,
        full_images=fields["images"].default,
        cpu_minutes=sum(row["cpu_s"] for row in rows) / 60,
        machine=MACHINE,
        revision=trained.code_revision,
        parameters=sum(parameter.numel() for parameter in trained.module.parameters()),
        remark=remark,
        figures=list(figures),
    )
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{found.name}.json").write_text(json.dumps(asdict(found), indent=2) + "\n")
    with Image.open(run / "evaluation/pairs.png") as sheet:
        height = min(sheet.height, _SHOWN * trained.target_shape[0])
        sheet.crop((0, 0, sheet.width, height)).save(RECORDS / f"{found.name}.png", optimize=True)
    return found


def draw_picture(record: Record, path: Path) -> None:
    """Draws the sheet of a record with a heading above each column, larger if it is small.

    Raises:
        ValueError: the sheet has other columns than the record.
    """
    names = ["source", "result", *list_baselines(record), "truth"]
    with Image.open(RECORDS / f"{record.name}.png") as sheet:
        side, remainder = divmod(sheet.width, len(names))
        if remainder:
            raise ValueError(f"{record.name}: {sheet.width} pixels are not {len(names)} columns")
        factor = max(_COLUMN // side, 1)
        enlarged = sheet.resize(
            (factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST
        )
    canvas = Image.new("RGB", (enlarged.width, enlarged.height + _HEADING), "white")
    canvas.paste(enlarged, (0, _HEADING))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_HEADING * 2 // 3)
    for column, name in enumerate(names):
        middle = (factor * side * (2 * column + 1) // 2, _HEADING // 2)
        pen.text(middle, name.replace("_", " "), "black", font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)


def _spell(value: object) -> str:
    return Path(str(value)).name if isinstance(value, str) and "/" in value else str(value)


def list_runs(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Returns what `imagemint train --list` shows: the first record of each recipe, by its name."""
    found: dict[str, dict[str, Any]] = {}
    for each in records:
        quality = [
            f"{figure.metric.replace('_', ' ')} {figure.value:.3g}"
            for metric in ("psnr", "psnr_in_hole", "attributes_kept", "glasses_removed")
            for figure in each.figures
            if figure.metric == metric
        ]
        run = {
            "images": each.images,
            "full_images": each.full_images,
            "minutes": round(each.cpu_minutes, 1),
            "machine": f"{each.machine}, CPU time",
            "quality": ", ".join(quality),
            "command": f"imagemint train {each.recipe} {each.options}".strip(),
        }
        found.setdefault(each.recipe, run)
    return found


def read_records() -> list[Record]:
    """Returns every record, in the order of the recipes."""
    order: list[Any] = list(TRANSLATION_TABLE)
    found = [Record.read(path) for path in sorted(RECORDS.glob("*.json"))]
    return sorted(found, key=lambda each: (order.index(each.recipe), each.name))


def main() -> None:
    """Records a run, or writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    one = actions.add_parser("record", help="records an evaluated run")
    one.add_argument("run", type=Path)
    one.add_argument("--remark", default="", help="what was seen")
    one.add_argument("--name", help="of the record; default: the recipe")
    actions.add_parser("page", help="writes docs/zoo-translation.md")
    options = parser.parse_args()
    if options.action == "record":
        print(record(options.run, options.remark, options.name).name)
    else:
        LIST.write_text(json.dumps(list_runs(read_records()), indent=2) + "\n")
        PAGE.write_text(write_page(read_records()).rstrip("\n") + "\n")
        for each in read_records():
            draw_picture(each, PICTURES / f"{each.name}.png")
        print(PAGE)


if __name__ == "__main__":
    main()
