"""The command ``imagemint stylize``. Torch is imported when it runs."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from imagemint.training.errors import CheckpointError, TrainingError
from imagemint.training.run_command import choose_device


class Stylize(BaseModel):
    """Draws a picture in the style of another one, by optimisation of its pixels.

    Prints the losses of content, style and total variation before and after, as JSON. The recipe
    `style-transfer` trains a network that does the same in one pass.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    content: CliPositionalArg[Path]
    """Picture whose content is kept."""
    style: CliPositionalArg[Path]
    """Picture whose style is taken."""
    out: Path
    """PNG file to be written."""
    classifier: Path
    """Directory of a classifier that `imagemint train avatars-classifier` or another wrote, in
    whose features pictures are compared."""
    size: int = Field(default=128, ge=16, le=1024)
    """Shorter side of both pictures in pixels."""
    steps: int = Field(default=100, ge=1)
    """Steps of L-BFGS."""
    content_weight: float = Field(default=1.0, ge=0)
    """Weight of the difference from the content."""
    style_weight: float = Field(default=10.0, ge=0)
    """Weight of the difference of Gram matrices."""
    tiles: int = Field(default=4, ge=1)
    """Tiles of the picture in each direction that have Gram matrices of their own, so that the
    style is everywhere. 1: one for the whole picture."""
    variation_weight: float = Field(default=1.0, ge=0)
    """Weight of the total variation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. auto: a GPU if there is one."""

    def run(self) -> int:
        """Writes the picture and prints the losses."""
        from PIL import Image  # noqa: PLC0415 - import-light
        from torch import nn  # noqa: PLC0415 - import-light

        from imagemint.training.classifier.trained import load_classifier  # noqa: PLC0415 - torch
        from imagemint.training.losses.style import StyleOptions  # noqa: PLC0415 - torch
        from imagemint.training.recipes.style_transfer import read_style  # noqa: PLC0415 - torch
        from imagemint.training.style_transfer import stylize  # noqa: PLC0415 - torch

        if self.out.suffix.lower() != ".png" or self.out.is_dir():
            raise TrainingError(f"--out {self.out}: the result is a PNG file, such as result.png")
        if self.out.resolve() in {self.content.resolve(), self.style.resolve()}:
            raise TrainingError(
                f"--out {self.out}: the result would replace a picture that you give"
            )
        device = choose_device(self.device)
        model, metadata = load_classifier(self.classifier, device)
        if not isinstance(model.features, nn.Sequential):
            raise CheckpointError(
                f"the classifier in {self.classifier} is not a sequence of layers"
            )
        channels = metadata.get("image_channels", 1)
        content, style = (
            read_style(path, self.size, channels).to(device) for path in (self.content, self.style)
        )
        self.out.parent.mkdir(parents=True, exist_ok=True)  # fails before the work, if at all
        found = stylize(
            content,
            style,
            model.features.requires_grad_(requires_grad=False),
            (*content.shape[2:], channels),
            options=StyleOptions(
                self.content_weight, self.style_weight, self.variation_weight, self.tiles
            ),
            steps=self.steps,
        )
        levels = found.image[0].add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(levels[..., 0] if channels == 1 else levels).save(self.out, "PNG")
        losses = {"before": found.before, "after": found.after, "seconds": found.seconds}
        print(json.dumps(losses, indent=2))  # noqa: T201 - the command's answer
        return 0
