"""Reads trained networks from the checkpoints of a run, for exporter and evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from imagemint.engine.captions import Captions
from imagemint.engine.sampling import Distribution
from imagemint.training.errors import CheckpointError
from imagemint.training.evaluation_report import EvaluationFigure, read_report
from imagemint.training.loop.checkpoints import (
    find_latest_checkpoint,
    read_description,
    read_tensors,
)
from imagemint.training.loop.state import select_tensors
from imagemint.training.networks import Discriminator, Shape
from imagemint.training.recipes import RECIPES
from imagemint.training.recipes.recipe import Recipe

_FIRST_LICENSE = "CC-BY-SA-3.0"  # of MNIST, the data of all runs before checkpoints recorded it


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator of a run and what is known about it.

    Attributes:
        module: the network in evaluation mode on the CPU; forward(z [N, z_dim], y int64 [N]) -> [N,
            C, H, W]
            in [-1, 1]. Without class labels it takes no y. With captions it takes
            ``tokens=`` int64 [N, max_words], and where truncation is ``psi`` also ``truncation=``
            float32 [N, 1].
        z_dim: length of a latent.
        class_labels: label texts by class index; empty for an unconditional generator.
        image_size: height and width in pixels.
        image_channels: 1 or 3.
        recipe: name of the recipe.
        options: every option of the recipe.
        dataset: data set and split.
        license: licence of the data, which the weights inherit.
        seed: seed of the run.
        images_seen: real images shown to the discriminator.
        code_revision: git commit that trained it, or empty.
        weights_sha256: digest of generator.safetensors.
        evaluations: measured figures, from ``RUN/evaluation.json`` if it is of these weights.
        distribution: distribution of the latent's elements.
        truncation: kind of truncation, ``threshold`` or ``psi``.
        captions: the captions that it understands; None if it takes none.
    """

    module: nn.Module
    z_dim: int
    class_labels: tuple[str, ...]
    image_size: int
    image_channels: int
    recipe: str
    options: dict[str, Any]
    dataset: str
    license: str
    seed: int
    images_seen: int
    code_revision: str
    weights_sha256: str
    evaluations: tuple[EvaluationFigure, ...]
    distribution: Distribution = Distribution.NORMAL
    truncation: Literal["threshold", "psi"] = "threshold"
    captions: Captions | None = None


def _read_description(run: Path) -> tuple[Path, dict[str, Any], Recipe]:
    """Returns the newest checkpoint below ``run``, or ``run`` itself, its JSON and its recipe."""
    checkpoint = run if (run / "checkpoint.json").is_file() else find_latest_checkpoint(run)
    metadata = read_description(checkpoint)
    if metadata["recipe"] not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise CheckpointError(f"{checkpoint}: recipe {metadata['recipe']!r} is not one of {known}")
    try:
        recipe = RECIPES[metadata["recipe"]]
        return (
            checkpoint,
            metadata,
            recipe.model_validate(recipe.complete_options(metadata["options"])),
        )
    except ValidationError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def read_discriminator(run: Path, num_classes: int) -> Discriminator:
    """Returns D of the newest checkpoint in ``run``, or of this checkpoint, for evaluation.

    Args:
        run: the run's directory, or a checkpoint in it.
        num_classes: number of classes of the data, which the description of an unconditional run
            does not tell.

    Raises:
        CheckpointError: as in `read_generator`, or D was built for another number of classes.
    """
    checkpoint, metadata, recipe = _read_description(run)
    shape = Shape(num_classes, metadata["image_size"], metadata["image_channels"])
    with torch.random.fork_rng():
        D = recipe.make_discriminator(shape)
    state = read_tensors(checkpoint / "state.safetensors", metadata["state_sha256"])
    try:
        D.load_state_dict(select_tensors(state, "D"))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    return D.eval().requires_grad_(requires_grad=False)


def read_generator(run: Path) -> TrainedGenerator:
    """Returns the averaged generator of the newest checkpoint in ``run``, or of this checkpoint.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or its recipe or options are
            unknown.
    """
    checkpoint, metadata, recipe = _read_description(run)
    labels = tuple(metadata["class_labels"])
    shape = Shape(len(labels), metadata["image_size"], metadata["image_channels"])
    with torch.random.fork_rng():  # restore the random state of the caller
        generator = recipe.make_generator(shape)
    weights = read_tensors(checkpoint / "generator.safetensors", metadata["generator_sha256"])
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    return TrainedGenerator(
        module=generator.eval().requires_grad_(requires_grad=False),
        z_dim=recipe.z_dim,
        class_labels=labels,
        image_size=metadata["image_size"],
        image_channels=metadata["image_channels"],
        recipe=metadata["recipe"],
        options=metadata["options"],
        dataset=metadata["dataset"],
        license=metadata.get("license", _FIRST_LICENSE),
        seed=recipe.seed,
        images_seen=metadata["images_seen"],
        code_revision=metadata["code_revision"],
        weights_sha256=metadata["generator_sha256"],
        evaluations=read_report(run / "evaluation.json", metadata["generator_sha256"]),
        distribution=Distribution(recipe.latent),
        truncation=recipe.truncation,
        captions=recipe.get_captions(),
    )
