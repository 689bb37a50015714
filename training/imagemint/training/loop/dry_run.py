"""Collects the output of ``--dry-run`` besides the options."""

from typing import Any

import torch

from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.sufficiency import find_evaluation_shortages, find_shortages
from imagemint.training.datasets.survey import find_doubts, summarise
from imagemint.training.loop.pace import measure_pace
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.task import Task
from imagemint.training.networks.precision import Passes
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.recipes.results import spell_minutes


def find_training_warnings(recipe: Recipe, data: LabelledImages) -> list[str]:
    """Returns possible problems of the training pictures, and what the run omits."""
    by_class = recipe.condition == "class"
    warnings = [*find_doubts(data), *find_shortages(data, recipe.batch_size, by_class=by_class)]
    if by_class and len(data.class_labels) == 1:
        warnings.append(f"recipe {recipe.name} is class-conditional, and there is only one class")
    return warnings + recipe.find_warnings(data)


def describe_data(train: LabelledImages, test: LabelledImages | str) -> dict[str, Any]:
    """Returns a summary of the data, as JSON values.

    Args:
        train: training pictures.
        test: test pictures, or the reason why there are none.
    """
    known = None if isinstance(test, str) else test
    remarks = dict.fromkeys([*train.remarks, *(known.remarks if known else ())])
    return summarise(train, known) | {"remarks": list(remarks)}


def find_evaluation_warnings(test: LabelledImages | str) -> list[str]:
    """Returns warnings about figures that ``imagemint evaluate`` will omit."""
    if isinstance(test, str):
        return [f"`imagemint evaluate` has no test pictures: {test}"]
    return find_evaluation_shortages(test)


def estimate_time(
    task: Task, schedule: Schedule, device: torch.device, passes: Passes
) -> dict[str, Any]:
    """Returns the expected time of the run on this machine, measured on its first steps.

    Raises:
        TrainingError: the first steps of the run fail.
    """
    pace = measure_pace(task, schedule, device, passes)
    processor = (
        f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    )
    sample = f"{'1 step' if pace.steps == 1 else f'{pace.steps} steps'} ({pace.images:,} images)"
    return {
        "time": spell_minutes(task.options.images / pace.images_per_s / 60),
        "images": task.options.images,
        "images_per_s": round(pace.images_per_s, 1),
        "basis": f"measured on {sample} in one process on {processor}, without checkpoints",
    }
