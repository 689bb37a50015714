"""Describes a run: recipe, options, data, code and versions."""

import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from imagemint.training.datasets import LabelledImages
from imagemint.training.recipes.options import RunOptions
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.whole_files import write_whole


class _Data(Protocol):
    """The description of the data of a run."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def license(self) -> str: ...


def describe(recipe: Recipe, data: LabelledImages, precision: str = "fp32") -> dict[str, Any]:
    """Returns the description of a generator's run for checkpoints and ``options.json``."""
    of_images = {
        "class_labels": list(recipe.list_class_labels(data.class_labels)),
        "image_size": data.images.shape[1],
        "image_channels": data.images.shape[-1],
    }
    return describe_run(recipe, data, precision, of_images)


def describe_run(
    options: RunOptions, data: _Data, precision: str, of_images: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the description that every run has, as JSON values.

    Args:
        options: options of the recipe.
        data: name, digest and licence of the data.
        precision: precision of the passes.
        of_images: shape that the networks were built for.
    """
    return {
        "recipe": options.name,
        "options": options.model_dump(mode="json"),
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "license": data.license,
        **of_images,
        "precision": precision,
        "code_revision": read_code_revision(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
    }


def write_options(run: Path, metadata: dict[str, Any]) -> None:
    """Writes the complete options of a run beside its results, which a resume reads."""
    write_whole(run / "options.json", (json.dumps(metadata, indent=2) + "\n").encode())


def read_code_revision() -> str:
    """Returns the git commit of this code, with ``+`` when it has local changes, or ''.

    The repository counts only if it tracks this file, because a virtual environment may be in
    another repository.
    """
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        subprocess.run(  # noqa: S603 - fixed arguments
            [*git, "ls-files", "--error-unmatch", "--", Path(__file__).name],
            capture_output=True,
            check=True,
        )
        head = subprocess.run(  # noqa: S603 - fixed arguments
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603 - fixed arguments
            # Of all training code: networks, losses and recipes decide the weights as well.
            [*git, "status", "--porcelain", "--untracked-files=no", "--", str(here.parent)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")
