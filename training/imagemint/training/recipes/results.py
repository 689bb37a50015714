"""Reads the record of real runs, for `imagemint train --list`."""

import json
import re
from dataclasses import dataclass
from importlib import resources

from imagemint.training.recipes import TABLE, TRANSLATION_TABLE

MISSING = "not yet recorded"
_FILES = ("recorded.json", "recorded_translators.json")
# Options that make a step cheaper or dearer, so that the time says nothing about a default run.
_COSTLY = re.compile(r"--(\S+-channels|batch-size|blocks|size) ")


@dataclass(frozen=True)
class RecordedRun:
    """A measured run.

    Attributes:
        images: real images shown to D; of a translator, sources shown to G.
        full_images: default number of images of the recipe.
        minutes: duration in minutes.
        machine: the machine of the run.
        quality: figures of `imagemint evaluate`, as text.
        command: command of the run.
    """

    images: int
    full_images: int
    minutes: float
    machine: str
    quality: str
    command: str


def read_recorded_runs() -> dict[str, RecordedRun]:
    """Returns the record of each recipe that has one, by the recipe's name."""
    found: dict[str, RecordedRun] = {}
    for file in _FILES:
        text = resources.files(__package__).joinpath(file).read_text()
        found |= {name: RecordedRun(**run) for name, run in json.loads(text).items()}
    return found


def format_table() -> str:
    """Returns a row for each recipe: data set, full length, recorded run, quality.

    The time of a full run is that of the recorded one, times the ratio of their lengths. If the
    recorded run had networks or batches of another size, the full time is unknown.
    """
    runs = read_recorded_runs()
    head = ("recipe", "data set", "full run", "on", "measured after", "quality")
    rows: list[tuple[str, ...]] = [head]
    for name, entry in (TABLE | TRANSLATION_TABLE).items():
        run = runs.get(name)
        if run is None:
            rows.append((name, entry.dataset, *[MISSING] * 4))
            continue
        full = f"{run.full_images:,} images"
        measured = f"{run.images:,} images, {spell_minutes(run.minutes)}"
        if _COSTLY.search(run.command):
            measured += ", other sizes"
        else:
            full += f", {spell_minutes(run.minutes * run.full_images / run.images)}"
        machine = run.machine + (", bf16" if "--precision bf16" in run.command else "")
        rows.append((name, entry.dataset, full, machine, measured, run.quality))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def spell_minutes(minutes: float) -> str:
    """Returns a duration with a suitable unit."""
    if minutes < 2:  # noqa: PLR2004 - 2 min
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - 2 h
