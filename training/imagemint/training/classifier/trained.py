"""Reads a trained classifier from its directory."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from imagemint.training.classifier.networks import Classifier
from imagemint.training.classifier.recipes import CLASSIFIER_RECIPES
from imagemint.training.errors import CheckpointError


def load_classifier(directory: Path, device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """Returns a trained classifier in evaluation mode and its ``classifier.json``.

    Raises:
        CheckpointError: the files are missing, damaged, or not the weights that the JSON names.
    """
    path = directory / "classifier.safetensors"
    try:
        metadata: dict[str, Any] = json.loads((directory / "classifier.json").read_text())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        # Check the values that an evaluation needs now, before hours of work.
        recorded, _, _ = metadata["sha256"], metadata["test_accuracy"], metadata["feature_layer"]
        if digest != recorded:
            raise CheckpointError(f"{path}: SHA-256 is {digest}, recorded is {recorded}")
        kind = CLASSIFIER_RECIPES[metadata["recipe"]]
        recipe = kind.model_validate(kind.values_before | metadata["options"])
        # Old files without a name are classifiers of gray digits.
        model = recipe.make_network(
            len(metadata["class_labels"]), metadata.get("image_channels", 1)
        )
        model.load_state_dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory} holds no classifier ({_format_reason(error)}); `imagemint train"
            " mnist-classifier --out DIR` makes one"
        ) from error
    return model.to(device).eval(), metadata


def _format_reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
