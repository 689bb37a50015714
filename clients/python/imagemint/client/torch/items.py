"""Turns images of a source into what a training loop expects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from imagemint.client.image_source import SourceImages

Output: TypeAlias = Literal["tensor", "pil"]
"""`tensor`: uint8 [C, H, W]. `pil`: a Pillow image of mode L or RGB."""
Transform: TypeAlias = Callable[[Any], Any]
"""Function of one image, such as those of torchvision."""

NO_CLASS = -1
"""Class of the images of a model without classes."""


@dataclass(frozen=True, slots=True)
class ItemFormat:
    """Format of one item: (image, class), or (image, class, serial).

    Raises:
        ValueError: `output` is not one of these two.
    """

    output: Output = "tensor"
    """Type of the image."""
    transform: Transform | None = None
    """Applied to each image."""
    serials: bool = False
    """Whether each item has its serial number, a str, as third element."""

    def __post_init__(self) -> None:
        if self.output not in {"tensor", "pil"}:
            raise ValueError(f"output is {self.output!r}, and must be 'tensor' or 'pil'")

    def split(self, images: SourceImages) -> list[tuple[Any, ...]]:
        """Returns the images one by one; the class is an int."""
        pictures: list[Any]
        if self.output == "tensor":
            pictures = list(make_tensor(images))
        else:
            gray = images.image.shape[-1] == 1
            pictures = [Image.fromarray(each[..., 0] if gray else each) for each in images.image]
        if self.transform is not None:
            pictures = [self.transform(picture) for picture in pictures]
        classes = list_classes(images)
        if self.serials:
            return list(zip(pictures, classes, images.serials, strict=True))
        return list(zip(pictures, classes, strict=True))

    def stack(self, images: SourceImages) -> tuple[Any, ...]:
        """Returns the images as one batch: uint8 [N, C, H, W], int64 [N], and serials if wanted.

        A transform is applied to each image, and must return tensors of one shape.
        """
        batch = make_tensor(images)
        if self.transform is not None:
            batch = torch.stack([self.transform(each) for each in batch])
        classes = torch.tensor(list_classes(images), dtype=torch.int64)
        return (batch, classes, list(images.serials)) if self.serials else (batch, classes)


def make_tensor(images: SourceImages) -> torch.Tensor:
    """Returns a copy of the pixels as uint8 [N, C, H, W]."""
    # A copy, because received bytes are read-only and the transpose is not contiguous.
    return torch.from_numpy(np.array(images.image.transpose(0, 3, 1, 2), order="C"))


def list_classes(images: SourceImages) -> list[int]:
    """Returns the class of each image; NO_CLASS for a model without classes."""
    if images.class_id is None:
        return [NO_CLASS] * len(images.image)
    return [int(each) for each in images.class_id]
