"""Reads trained translators from the checkpoints of a run, for exporter and evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from imagemint.training.datasets.translations import SourceForm
from imagemint.training.errors import CheckpointError
from imagemint.training.evaluation_report import EvaluationFigure, read_report
from imagemint.training.loop.checkpoints import (
    find_latest_checkpoint,
    read_description,
    read_tensors,
)
from imagemint.training.loop.examples import Examples, read_examples
from imagemint.training.networks.resnet import TwoWay
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.recipes.translation import TranslationRecipe

Direction = Literal["there", "back"]
WAY_BACK = ", way back"
"""End of the description of what the way back learnt from."""


@dataclass(frozen=True)
class TrainedTranslator:
    """The averaged translator of a run and what is known about it.

    Attributes:
        module: the network in evaluation mode on the CPU; forward(source [N, S, H, W]) -> [N, C,
            H', W'], all
            in [-1, 1].
        form: form of its sources.
        target_shape: height, width and channels of its results for sources of that form.
        free_step: height and width can be any multiples of this; 0 for a fixed size.
        max_side: for a free size, the largest height and width of one pass.
        radius: for a free size, number of source pixels in each direction that affect a pixel.
        examples: sources and true results of the test split; of the way back, the sources are true
            and the results are what the way there started from.
        direction: ``back`` for the way back of a translator with both directions.
        task: name of the task.
        recipe: name of the recipe.
        options: every option of the recipe.
        dataset: task, data set and split; of the way back with ``, way back``.
        license: licence of the data, which the weights inherit.
        seed: seed of the run.
        images_seen: sources shown to it in training.
        code_revision: git commit that trained it, or empty.
        weights_sha256: digest of generator.safetensors.
        evaluations: measured figures, from ``RUN/evaluation.json`` if it is of these weights.
    """

    module: nn.Module
    form: SourceForm
    target_shape: tuple[int, int, int]
    free_step: int
    max_side: int
    radius: int
    examples: Examples
    direction: Direction
    task: str
    recipe: str
    options: dict[str, Any]
    dataset: str
    license: str
    seed: int
    images_seen: int
    code_revision: str
    weights_sha256: str
    evaluations: tuple[EvaluationFigure, ...]


def is_translator(run: Path) -> bool:
    """Returns whether the newest checkpoint in ``run``, or this checkpoint, has a translator.

    Raises:
        CheckpointError: there is no checkpoint, or it is unreadable.
    """
    return str(read_description(_find_checkpoint(run))["recipe"]) in TRANSLATION_RECIPES


def read_translator(run: Path, direction: Direction = "there") -> TrainedTranslator:
    """Returns the averaged translator of the newest checkpoint in ``run``, or of this checkpoint.

    Args:
        run: the run's directory, or a checkpoint in it.
        direction: ``back`` for the way from targets to sources, which `cyclegan` learns as well.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, its recipe is unknown, or it has no
            way back.
    """
    checkpoint = _find_checkpoint(run)
    metadata = read_description(checkpoint)
    recipe = _read_recipe(checkpoint, metadata)
    form, target, dataset = (
        SourceForm(**metadata["source"]),
        tuple(metadata["target"]),
        metadata["dataset"],
    )
    with torch.random.fork_rng():  # restore the random state of the caller
        network = recipe.make_generator(form, target)
    try:
        network.load_state_dict(
            read_tensors(checkpoint / "generator.safetensors", metadata["generator_sha256"])
        )
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    examples = read_examples(run)
    evaluations: tuple[EvaluationFigure, ...] = ()
    if direction == "there":
        evaluations = read_report(run / "evaluation.json", metadata["generator_sha256"])
    if isinstance(network, TwoWay):
        network = network.there if direction == "there" else network.back
    elif direction == "back":
        raise CheckpointError(f"{checkpoint}: recipe {recipe.name} learns only one direction")
    if direction == "back":
        form, target = SourceForm(*target), form.shape
        examples = Examples(examples.target, examples.source)
        dataset += WAY_BACK
    return TrainedTranslator(
        module=network.eval().requires_grad_(requires_grad=False),
        form=form,
        target_shape=target,
        free_step=recipe.free_step,
        max_side=recipe.max_side,
        radius=int(getattr(network, "radius", 0)),
        examples=examples,
        direction=direction,
        task=metadata["task"],
        recipe=metadata["recipe"],
        options=_strip_folders(recipe, metadata["options"]),
        dataset=dataset,
        license=metadata["license"],
        seed=recipe.seed,
        images_seen=metadata["images_seen"],
        code_revision=metadata["code_revision"],
        weights_sha256=metadata["generator_sha256"],
        evaluations=evaluations,
    )


def _strip_folders(recipe: TranslationRecipe, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options with names of files for their paths, which are those of one machine."""
    paths = {name for name in options if isinstance(getattr(recipe, name, None), Path)}
    return {name: Path(it).name if name in paths else it for name, it in options.items()}


def _find_checkpoint(run: Path) -> Path:
    return run if (run / "checkpoint.json").is_file() else find_latest_checkpoint(run)


def _read_recipe(checkpoint: Path, metadata: dict[str, Any]) -> TranslationRecipe:
    if metadata["recipe"] not in TRANSLATION_RECIPES:
        known = ", ".join(sorted(TRANSLATION_RECIPES))
        raise CheckpointError(f"{checkpoint}: recipe {metadata['recipe']!r} is not one of {known}")
    recipe = TRANSLATION_RECIPES[metadata["recipe"]]
    try:
        return recipe.model_validate(recipe.complete_options(metadata["options"]))
    except ValidationError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
