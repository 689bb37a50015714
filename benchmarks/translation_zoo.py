"""The zoo of translators: records of real runs, and the page docs/zoo-translation.md.

    python benchmarks/translation_zoo.py record runs/pix2pix --remark "what was seen"
    python benchmarks/translation_zoo.py page

A run is recorded after `imagemint evaluate RUN --classifier JUDGE`, which measures it beside its
baselines and draws sources, results and truths.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from imagemint.training.evaluation_report import EvaluationFigure, read_report
from imagemint.training.recipes import TRANSLATION_RECIPES, TRANSLATION_TABLE
from imagemint.training.translators import read_translator

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/results/translation"
PAGE = ROOT / "docs/zoo-translation.md"
PICTURES = ROOT / "docs/zoo"
LIST = ROOT / "training/imagemint/training/recipes/recorded_translators.json"
MACHINE = f"{len(os.sched_getaffinity(0))} CPU cores ({torch.backends.cpu.get_cpu_capability()})"
_SHOWN = 8  # rows of a picture
_PAPERS = {
    "pix2pix": "https://arxiv.org/abs/1611.07004",
    "colorize": "https://arxiv.org/abs/1611.07004",
    "cyclegan": "https://arxiv.org/abs/1703.10593",
    "srgan": "https://arxiv.org/abs/1609.04802",
    "deblurgan": "https://arxiv.org/abs/1711.07064",
    "inpaint": "https://arxiv.org/abs/1604.07379",
    "next-frame": "https://arxiv.org/abs/1511.06380",
    "style-transfer": "https://arxiv.org/abs/1603.08155",
}
_HEAD = """\
<!-- Written by `python benchmarks/translation_zoo.py page` from benchmarks/results/translation. -->
# The zoo of translators

Recipes whose input is an image, each with a real run, measured on the test split beside baselines
that need no training. [evaluation.md](evaluation.md#translators) explains the figures. In a
picture each row is one source: the source, the result, the baselines in the order of the table,
and the truth. Behind ± is the standard error of the mean over the images. A run that is shorter
than the default of its recipe is marked *short*: it shows that the method works, not what it can
reach.
"""
_TAIL = """\
## Not tried: a second stage of text to image

There is no recipe `stack`, the later stages of StackGAN++ (Zhang et al., 2017), which would
enlarge a 32x32 person to 64x64 and look at the caption again. No experiment was made, so
whether `avatars-text` would gain by it is open. It generates 64x64 at once. An answer takes
four things: a run of `avatars-text` at half the size as first stage; a generator that is told
an image and the caption that its reader understood, of which the parts exist
(`ResnetGenerator`, the reader); sources that the first stage draws during the training, while
every task of `Pairs` makes them from data; and two runs of equal CPU time, of hours each, with
the figures of captions for both.

## What remains of the lecture: 3D from a photo

There is no recipe for 3D shapes yet. 3D-GAN (Wu et al., 2016) generates voxels by 3D convolutions,
and 3D-VAE-GAN has an encoder in front of it that takes a photo. Here that would take three things.
First, data: pairs of a rendered view and a voxel grid. No data set at hand has them; procedural
shapes (boxes, cylinders and their unions, rendered from random directions) can be drawn by a
function of (seed, index), as the sequences are. Second, networks of `Conv3d` and `ConvTranspose3d`
at 32x32x32: some 24 times the multiplications of a 64x64 image (8 times the places, 3 times the
kernel), so hours on a CPU instead of minutes. Third, a contract: the manifest describes images, so
voxels need an output of their own in the bundle and an RPC that returns a mesh or a grid, with
limits as images have them. A smaller step that keeps the contract is to predict another view of an
object from one photo, which is an image again and would be a task like `frames`.

## Make these runs

<!-- not run: trains for hours -->
```sh
imagemint train avatars-classifier --out runs/avatars-judge
imagemint train inpaint --out runs/inpaint
imagemint evaluate runs/inpaint --classifier runs/avatars-judge
python benchmarks/translation_zoo.py record runs/inpaint --remark "what was seen"
python benchmarks/translation_zoo.py page
```
"""


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

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Returns the record in a file."""
        content = json.loads(path.read_text())
        figures = [EvaluationFigure(**each) for each in content["figures"]]
        return cls(**content | {"figures": figures})


def record(run: Path, remark: str, name: str | None) -> Record:
    """Records an evaluated run, with its picture."""
    trained = read_translator(run)
    figures = read_report(run / "evaluation/figures.json", trained.weights_sha256)
    if not figures:
        raise SystemExit(f"{run} is not evaluated: imagemint evaluate {run} --classifier JUDGE")
    rows = [json.loads(row) for row in (run / "log.jsonl").read_text().splitlines()]
    fields = TRANSLATION_RECIPES[trained.recipe].model_fields
    changed = {
        key: value
        for key, value in trained.options.items()
        if key in fields and value != fields[key].default
    }
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
        parameters=sum(each.numel() for each in trained.module.parameters()),
        remark=remark,
        figures=list(figures),
    )
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{found.name}.json").write_text(json.dumps(asdict(found), indent=2) + "\n")
    with Image.open(run / "evaluation/pairs.png") as sheet:
        height = min(sheet.height, _SHOWN * trained.target_shape[0])
        sheet.crop((0, 0, sheet.width, height)).save(PICTURES / f"{found.name}.png", optimize=True)
    return found


def _spell(value: object) -> str:
    return Path(str(value)).name if isinstance(value, str) and "/" in value else str(value)


def write_page(records: Sequence[Record]) -> str:
    """Returns the page."""
    lines = [_HEAD]
    for each in records:
        short = " (short)" if each.images < each.full_images else ""
        planned = _find_planned(each)
        ended = f" The run was ended early, of {planned:,} planned." if planned else ""
        lines += [f"## {each.name}{short}", ""]
        summary = TRANSLATION_TABLE[each.recipe].summary
        flags = f" {each.options}" if each.options else ""
        lines += [
            f"`imagemint train {each.recipe}{flags}`: {summary} ([paper]({_PAPERS[each.recipe]})).",
            f"Sources: {each.dataset}. {each.images:,} of {each.full_images:,} sources.{ended}",
            f"{each.cpu_minutes:.0f} CPU minutes of {each.machine}, which other work shared.",
            f"{each.parameters / 1e6:.2f} M weights.",
            *(["", each.remark] if each.remark else []),
            "",
            *_table(each),
            "",
            f"![Source, result, baselines and truth of {each.name}](zoo/{each.name}.png)",
            "",
        ]
    missing = [name for name in TRANSLATION_TABLE if name not in {each.recipe for each in records}]
    if missing:
        lines += ["## Not yet recorded", "", f"No run of {', '.join(missing)} is recorded yet.", ""]
    return "\n".join([*lines, _TAIL, *_protocols(records)]) + "\n"


def _find_planned(record: Record) -> int | None:
    """Returns the length that a run was to have; None if it came to its end."""
    found = re.search(r"--images (\d+)", record.options)
    planned = int(found[1]) if found else record.full_images
    return planned if record.images < planned else None


def _table(record: Record) -> list[str]:
    by_name = {each.metric: each for each in record.figures}
    names = list(dict.fromkeys(each.metric.partition("@")[2] for each in record.figures))
    head = ["metric", *(name.replace("_", " ") or "result" for name in names), "real data"]
    rows = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for metric in dict.fromkeys(each.metric.partition("@")[0] for each in record.figures):
        found = [by_name.get(f"{metric}@{name}" if name else metric) for name in names]
        real = next(each.reference for each in found if each is not None)
        cells = [metric, *map(_cell, found), "" if real is None else f"{real:.3g}"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _cell(figure: EvaluationFigure | None) -> str:
    if figure is None:
        return ""
    spread = "" if figure.deviation is None else f" ± {figure.deviation:.1g}"
    return f"{figure.value:.3g}{spread}"


def _protocols(records: Sequence[Record]) -> list[str]:
    lines = ["## Protocols", "", "Of the results; baselines are measured in the same way.", ""]
    for each in records:
        lines += [f"**{each.name}**", ""]
        lines += [
            f"- {figure.metric}, {figure.sample_size:,} images: {figure.protocol}"
            for figure in each.figures
            if "@" not in figure.metric
        ]
        lines.append("")
    return lines


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
        print(PAGE)


if __name__ == "__main__":
    main()
