"""The description of a foreign ONNX file by the user, because the file does not contain it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagemint.engine import Distribution

Layout = Literal["auto", "nchw", "nhwc"]


@dataclass(frozen=True)
class ForeignModel:
    """An ONNX file that another program exported, and its description by the user.

    Attributes:
        path: the ONNX file.
        value_range: output values of black and of white; (0, 255) for levels.
        layout: order of the axes of the output; `auto` decides by which axis holds 1 or 3 channels.
        image_shape: height, width and channels of an image. Only an output [N, values] needs it.
        class_labels: label texts by index; empty for a model without classes.
        distribution: distribution of the elements of a latent.
        latent_input: name of the input for latents; None takes the only candidate.
        class_input: name of the input for classes; None takes the only candidate.
        truncation_input: name of the input for psi; None takes an input with a common name for psi.
        fixed_inputs: inputs that always get the same number, with that number.
        output: name of the output that holds the images; None takes the only one.
        check_value_range: refuse a value range that most output values contradict.
        dataset: the data set of the training, such as `mnist/train`; empty if unknown.
    """

    path: Path
    value_range: tuple[float, float]
    layout: Layout = "auto"
    image_shape: tuple[int, int, int] | None = None
    class_labels: tuple[str, ...] = ()
    distribution: Distribution = Distribution.NORMAL
    latent_input: str | None = None
    class_input: str | None = None
    truncation_input: str | None = None
    fixed_inputs: Mapping[str, float] = field(default_factory=dict)
    output: str | None = None
    check_value_range: bool = True
    dataset: str = ""
