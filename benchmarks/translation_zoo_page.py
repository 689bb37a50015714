"""Writes docs/zoo-translation.md, with its pictures, from the records of translators."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from translation_zoo_records import RECORDS, Record
from zoo_methods import list_open_runs
from zoo_queue import Plan
from zoo_records import ROOT

from imagemint.training.evaluation_report import EvaluationFigure
from imagemint.training.recipes import TRANSLATION_TABLE

PAGE = ROOT / "docs/zoo-translation.md"
PICTURES = ROOT / "docs/zoo"
LIST = ROOT / "training/imagemint/training/recipes/recorded_translators.json"
_COLUMN, _HEADING = 128, 24  # width of a column and height of the headings, in pixels
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
_ROUNDING = 1e-6
_HEAD = """\
<!-- Written by `python benchmarks/zoo.py page` from benchmarks/. -->
# The zoo of translators

This page compares the recipes whose input is an image. Each has a real run, measured on the test
split beside baselines that need no training. [Metrics](#metrics) explains the figures, and [Train a
translator](training-translators.md) explains how you train one. The number after ± is the standard
error of the mean over the images. In a picture each row is one source: the source, the result, the
baselines, and the truth, with their names above. A run that is shorter than the default of its
recipe is marked *short*. It shows that the method works, and not what the method can reach. PSNR
compares pixels, for which blurred results are best: runs with a GAN are behind runs without one in
PSNR, and ahead in the Frechet and kernel distances.

The second stage of text to image is a recipe of a generator, `stack`:
[notes/avatars-text.md](notes/avatars-text.md#a-second-stage) compares it with `avatars-text`.
"""
_METRICS = """\
## Metrics

Results and baselines are measured in the same way on the same sources, with the command
`{command}`. The column *real data* has the same figure of the true images, or
of what the definition names as reference. [evaluation.md](evaluation.md#translators) says more.
"""
_COVERAGE = """\
## Not covered: 3D from a photo

There is no recipe for 3D shapes yet. 3D-GAN (Wu et al., 2016) generates voxels by 3D convolutions,
and 3D-VAE-GAN has an encoder in front of it that takes a photo. Here this would need three things.
First, it needs data: pairs of a rendered view and a voxel grid. No data set that imagemint reads
has them, but a function of (seed, index) can draw procedural shapes (boxes, cylinders and their
unions, rendered from random directions), as it draws the sequences of `next-frame`. Second, it
needs networks of `Conv3d` and `ConvTranspose3d` at 32x32x32. They take some 24 times the
multiplications of a 64x64 image (8 times the places, 3 times the kernel), which is hours on a CPU
instead of minutes. Third, it needs a contract: the manifest describes images, so voxels need an
output of their own in the bundle and an RPC that returns a mesh or a grid, with limits like those
of images. A smaller step would keep the contract: a model that predicts another view of an object
from one photo. Its result is an image again, so it would be a task like `frames`.
"""
_COMMANDS = """\
## Make these runs

<!-- not run: trains for hours -->
```sh
python benchmarks/zoo.py queue inpaint   # trains, measures and records one run of the list
python benchmarks/zoo.py status          # how far each run is
python benchmarks/zoo.py page            # writes this page from the records
```

The list is benchmarks/zoo.toml, which has the runs of generators, too.
[The zoo](zoo.md#make-these-runs) says more. These commands make and record a single run by hand;
recipes with a perceptual loss also need `--judge benchmarks/judges/avatars`:

<!-- not run: trains for hours -->
```sh
imagemint train inpaint --out runs/inpaint
imagemint evaluate runs/inpaint --classifier benchmarks/judges/avatars
python benchmarks/zoo.py record runs/inpaint --remark "what was seen"
```
"""


def write_page(records: Sequence[Record], plan: Plan) -> str:
    """Returns the page."""
    lines = [_HEAD, *_format_overview(records), ""]
    for record in records:
        lines += [f"## {record.name}{_mark(record)}", "", *_describe_run(record), ""]
        lines += [*_format_table(record), "", *_list_details(record)]
        lines += [
            f"![Source, result, baselines and truth of {record.name}](zoo/{record.name}.png)",
            "",
        ]
    missing = [
        name for name in TRANSLATION_TABLE if name not in {record.recipe for record in records}
    ]
    if missing:
        lines += ["## Not yet recorded", "", f"No run of {', '.join(missing)} is recorded yet.", ""]
    lines += [*describe_metrics(records), "", _COVERAGE]
    lines += list_open_runs(records, plan.translators)
    return "\n".join([*lines, _COMMANDS])


def list_baselines(record: Record) -> list[str]:
    """Returns the names of the baselines that a run was measured beside, in their order."""
    names = (figure.metric.partition("@")[2] for figure in record.figures)
    return list(dict.fromkeys(name for name in names if name))


def _mark(record: Record) -> str:
    return " (short)" if record.images < record.full_images else ""


def _format_overview(records: Sequence[Record]) -> list[str]:
    """Returns what each run cost, and its PSNR beside the best baseline's."""
    lines = [
        "| run | sources shown | default | CPU min | weights | PSNR, dB | best baseline |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for record in records:
        found = {
            of.metric: of.value for of in record.figures if of.metric.partition("@")[0] == "psnr"
        }
        # The Wiener filter gets the blur, which no other result knows, so it is no rival.
        rivals = [found[name] for name in found if "@" in name and not name.endswith("_known")]
        if record.recipe == "style-transfer":  # whose result should differ from the source
            found, rivals = {}, []
        cells = [
            f"[{record.name}](#{record.name}{'-short' if _mark(record) else ''})",
            f"{record.images:,}",
            f"{record.full_images:,}",
            f"{record.cpu_minutes:.0f}",
            f"{record.parameters / 1e6:.2f} M",
            *(_format_number(value) for value in (found.get("psnr"), max(rivals, default=None))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machines = dict.fromkeys(record.machine for record in records)
    trained = [
        f"{', '.join(record.name for record in records if record.machine == machine)} on {machine}"
        for machine in machines
    ]
    if len(machines) == 1:
        trained = [f"all runs on {next(iter(machines))}"]
    return [*lines, "", f"Machines: {'; '.join(trained)}. Other work shared the cores."]


def _describe_run(record: Record) -> list[str]:
    summary = TRANSLATION_TABLE[record.recipe].summary
    flags = f" {record.options}" if record.options else ""
    planned = _find_planned(record)
    reason = f": {record.failure}" if record.failure else ""
    ended = f" The run was ended early, of {planned:,} planned{reason}." if planned else ""
    return [
        f"`imagemint train {record.recipe}{flags}`: {summary} ([paper]({_PAPERS[record.recipe]})).",
        f"It trained on {record.dataset}.{ended} {_describe_sample(record)}",
        *(["", record.remark] if record.remark else []),
    ]


def _find_planned(record: Record) -> int | None:
    """Returns the length that a run was to have; None if it came to its end."""
    found = re.search(r"--images (\d+)", record.options)
    planned = int(found[1]) if found else record.full_images
    return planned if record.images < planned else None


def _describe_sample(record: Record) -> str:
    """Returns what was measured, in a sentence, with the figures of other samples."""
    samples: dict[tuple[int, str], list[str]] = {}
    for figure in record.figures:
        if "@" not in figure.metric:
            samples.setdefault((figure.sample_size, figure.setup.data), []).append(figure.metric)
    (size, data), *others = samples
    description = f"Measured on {size:,} sources: {data}."
    for other in others:
        names = dict.fromkeys(f"`{_name_metric(each)}`" for each in samples[other])
        where = "" if other[1] == data else f", {other[1]}"
        description += f" {', '.join(names)}: {other[0]:,} sources{where}."
    return description


def _name_metric(metric: str) -> str:
    """Returns the name of a metric, the same one for every step and baseline."""
    return re.sub(r"_step_\d+$", "_step_N", metric.partition("@")[0])


def _format_table(record: Record) -> list[str]:
    by_name = {figure.metric: figure for figure in record.figures}
    names = list(dict.fromkeys(figure.metric.partition("@")[2] for figure in record.figures))
    head = ["metric", *(name.replace("_", " ") or "result" for name in names), "real data"]
    rows = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for metric in dict.fromkeys(figure.metric.partition("@")[0] for figure in record.figures):
        found = [by_name.get(f"{metric}@{name}" if name else metric) for name in names]
        real = next(each.reference for each in found if each is not None)
        rows.append(f"| {' | '.join([metric, *map(_format_cell, found), _format_number(real)])} |")
    return rows


def _format_cell(figure: EvaluationFigure | None) -> str:
    if figure is None:
        return ""
    if figure.deviation is None:
        return _format_number(figure.value)
    # Equal values have a deviation that is only rounding.
    error = figure.deviation if figure.deviation > _ROUNDING * abs(figure.value) else 0
    return f"{_format_number(figure.value)} ± {error:.1g}"


def _format_number(value: float | None) -> str:
    """Returns a number with three digits, but with all that stand before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"  # noqa: PLR2004 - three digits


def _list_details(record: Record) -> list[str]:
    lines = []
    for figure in record.figures:
        if figure.detail and "@" not in figure.metric:
            lines += [f"`{figure.metric}` of the result: {figure.detail}.", ""]
    return lines


def describe_metrics(records: Sequence[Record]) -> list[str]:
    """Returns the section that defines metrics, baselines and judges, each of them once."""
    commands: dict[str, None] = {}
    methods: dict[str, dict[str, list[str]]] = {}
    baselines: dict[str, dict[str, list[str]]] = {}
    judges: dict[str, list[str]] = {}
    for record in records:
        for figure in record.figures:
            commands[figure.setup.command] = None
            methods.setdefault(_name_metric(figure.metric), {}).setdefault(
                figure.method, []
            ).append(record.name)
            if baseline := figure.metric.partition("@")[2]:
                how = figure.setup.results.partition(": ")[2]
                known = baselines.setdefault(baseline.replace("_", " "), {})
                known.setdefault(how, []).append(record.name)
            for judge in figure.setup.judges:
                judges.setdefault(judge, []).append(record.name)
    lines = [_METRICS.format(command="` or `".join(commands))]
    for title, found in (("", methods), ("The baselines:", baselines)):
        lines += [title, ""] if title else []
        for name, texts in found.items():
            lines += [
                f"- **{name}**: {_suffix_runs(text, runs, texts)}" for text, runs in texts.items()
            ]
        lines.append("")
    lines += ["The judges:" if len(judges) > 1 else "The judge:", ""]
    names = {judge: judge.removeprefix("judge ") for judge in judges}
    return [*lines, *(f"- {_suffix_runs(names[each], judges[each], judges)}" for each in judges)]


def _suffix_runs(text: str, runs: Sequence[str], all_texts: Collection[str]) -> str:
    """Returns a text, with the runs that it belongs to if it does not belong to all."""
    return text if len(all_texts) == 1 else f"{text} (of {', '.join(dict.fromkeys(runs))})"


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


def list_runs(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Returns what `imagemint train --list` shows: the first record of each recipe, by its name."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        quality = [
            f"{figure.metric.replace('_', ' ')} {figure.value:.3g}"
            for metric in ("psnr", "psnr_in_hole", "attributes_kept", "glasses_removed")
            for figure in record.figures
            if figure.metric == metric
        ]
        run = {
            "images": record.images,
            "full_images": record.full_images,
            "minutes": round(record.cpu_minutes, 1),
            "machine": f"{record.machine}, CPU time",
            "quality": ", ".join(quality),
            "command": f"imagemint train {record.recipe} {record.options}".strip(),
        }
        found.setdefault(record.recipe, run)
    return found
