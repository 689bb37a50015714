"""What a run says of itself: recipe, options, data, code and versions."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagemint.training.datasets import LabelledImages
from imagemint.training.recipes.recipe import Recipe


def describe(recipe: Recipe, data: LabelledImages, precision: str = "fp32") -> dict[str, Any]:
    """Returns what a checkpoint and ``options.json`` say of a run, as JSON values."""
    return {
        "recipe": recipe.name,
        "options": {name: getattr(recipe, name) for name in type(recipe).model_fields},
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "license": data.license,
        "class_labels": list(recipe.class_labels(data.class_labels)),
        "image_size": data.images.shape[1],
        "image_channels": data.images.shape[-1],
        "precision": precision,
        "code_revision": read_code_revision(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
    }


def write_options(run: Path, about: dict[str, Any]) -> None:
    """Writes the complete options of a run beside its results."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "options.json").write_text(json.dumps(about, indent=2) + "\n")


def read_code_revision() -> str:
    """Returns the git commit of this code, with ``+`` when it has local changes, or ''.

    The repository counts only if it tracks this very file: a virtual environment may lie in any
    other one.
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
            [*git, "status", "--porcelain", "--untracked-files=no", "--", str(here)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")
