"""The graph of a bundle that scores images."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imagemint.engine.bundle.memory_estimate import Estimate
from imagemint.engine.filtering import ScoreSpec
from imagemint.engine.spec import GraphInput, ModelSpec

CRITIC_FILE = "critic.onnx"


@dataclass(frozen=True, slots=True)
class CriticGraph:
    """The graph in critic.onnx."""

    path: Path
    """Path of its file."""
    sha256: str
    """SHA-256 of its file, lower-case hexadecimal."""
    size: int
    """Size of its file in bytes."""
    scores: ScoreSpec
    """The scores that it computes."""
    estimate: Estimate = field(repr=False, compare=False)
    """Its estimated time and memory."""


def list_critic_inputs(spec: ModelSpec) -> dict[str, GraphInput]:
    """Returns the inputs of the critic of a model."""
    inputs = {"image": spec.image}
    if spec.conditional:
        inputs["class_id"] = spec.inputs["class_id"]
    return inputs


def list_critic_outputs(scores: ScoreSpec) -> dict[str, GraphInput]:
    """Returns the outputs of a critic: one number for each image and score."""
    return {name: GraphInput(np.dtype(np.float32), ()) for name in scores.names}
