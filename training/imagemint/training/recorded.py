"""The record of real runs, for `imagemint train --list`."""

import json
from dataclasses import dataclass
from importlib import resources

from imagemint.training.recipes import RECIPES

MISSING = "not yet recorded"


@dataclass(frozen=True)
class RecordedRun:
    """A run that was made and measured.

    Attributes:
        images: real images shown to D.
        minutes: it took.
        machine: it ran on.
        quality: figures of `imagemint evaluate`, in a few words.
        command: that made it.
    """

    images: int
    minutes: float
    machine: str
    quality: str
    command: str


def recorded_runs() -> dict[str, RecordedRun]:
    """Returns the record of each recipe that has one, by the recipe's name."""
    text = resources.files(__package__).joinpath("recipes", "recorded.json").read_text()
    return {name: RecordedRun(**run) for name, run in json.loads(text).items()}


def table() -> str:
    """Returns a row for each recipe: data set, image size, length, expected time, quality."""
    runs = recorded_runs()
    rows = [("recipe", "data set", "image", "images", "expected time", "quality")]
    for name, recipe in RECIPES.items():
        run = runs.get(name)
        time = f"{run.minutes:g} min, {run.machine}" if run else MISSING
        images = f"{recipe.model_fields['images'].default:,}"
        quality = run.quality if run else MISSING
        rows.append((name, recipe.dataset, recipe.image, images, time, quality))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )
