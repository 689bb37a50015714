"""Keeps pairs of the test split in a run, for its grids and for the export."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from imagemint.training.datasets.translations import Pairs, SourceForm
from imagemint.training.errors import CheckpointError
from imagemint.training.networks.resnet import TwoWay

NUMBER = 64
FILE = "examples.safetensors"
_DRAWN = 24  # rows of three in a grid of three columns
_BATCH = 32
_RGB = 3
_HALF = 128
_HIDDEN = (255, 0, 255)  # colour of pixels that a mask hides

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Examples:
    """Fixed pairs.

    Attributes:
        source: uint8 [N, H, W, depth].
        target: uint8 [N, H', W', C], the true targets.
    """

    source: Images
    target: Images

    @classmethod
    def of(cls, pairs: Pairs) -> "Examples":
        """Returns up to 64 pairs, evenly spread over the data."""
        rows = np.linspace(0, len(pairs) - 1, min(NUMBER, len(pairs))).astype(np.int64)
        return cls(*pairs.make_examples(rows))

    def write(self, run: Path) -> None:
        """Writes the examples to the directory of a run."""
        run.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(it) for name, it in asdict(self).items()}, run / FILE)


def read_examples(run: Path) -> Examples:
    """Returns the examples of a run, given its directory or a checkpoint in it.

    Raises:
        CheckpointError: the examples are missing or damaged.
    """
    places = [run / FILE, run.parent.parent / FILE]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise CheckpointError(f"no {FILE} in {run}: it is not the run of a translator")
    try:
        tensors = load_file(found)
        return Examples(tensors["source"], tensors["target"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{found}: {error}") from error


def to_tensor(images: Images, device: torch.device) -> Tensor:
    """Returns float32 [N, C, H, W] in [-1, 1], channels last in memory, of uint8 [N, H, W, C]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
    return x.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def translate_images(translator: nn.Module, sources: Images) -> Images:
    """Returns the results uint8 [N, H', W', C] of a translator for uint8 [N, H, W, depth].

    Args:
        translator: the translator, in evaluation mode.
        sources: the sources, which are copied to its device in batches of 32.
    """
    device = next(translator.parameters()).device
    parts = []
    for start in range(0, len(sources), _BATCH):
        x = translator(to_tensor(sources[start : start + _BATCH], device))
        levels = x.float().add(1).mul(127.5).round().clamp(0, 255).byte()
        parts.append(levels.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def render_sources(sources: Images, form: SourceForm, shape: tuple[int, int, int]) -> Images:
    """Returns sources as pictures, uint8 [N, H', W', C] in the shape of the targets.

    They show the newest frame, enlarged by nearest neighbours. Hidden pixels are magenta, or white
    if the targets are gray.
    """
    height, width, channels = shape
    end = form.frames * form.channels
    seen = sources[..., end - form.channels : end]
    if channels == _RGB and form.channels == 1:
        seen = np.repeat(seen, _RGB, axis=3)
    if form.mask:
        hidden = sources[..., -1:] >= _HALF
        seen = np.where(hidden, _HIDDEN if seen.shape[3] == _RGB else 255, seen).astype(np.uint8)
    if channels == 1 and seen.shape[3] == _RGB:
        seen = seen.mean(axis=3, keepdims=True).astype(np.uint8)
    if seen.shape[1:3] == (height, width):
        return seen
    large = np.empty((len(seen), *shape), np.uint8)
    for small, into in zip(seen, large, strict=True):
        picture = Image.fromarray(small[..., 0] if channels == 1 else small)
        enlarged = np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
        into[:] = enlarged.reshape(shape)
    return large


def arrange_examples(
    translator: nn.Module, examples: Examples, form: SourceForm
) -> tuple[Images, int]:
    """Returns images for a grid, and its number of columns: source, result and truth in turn.

    A `TwoWay` has a fourth image, the way back of the truth. A row has three examples, or two.
    """
    source, target = examples.source[:_DRAWN], examples.target[:_DRAWN]
    columns = [
        render_sources(source, form, target.shape[1:]),
        translate_images(translator, source),
        target,
    ]
    if isinstance(translator, TwoWay):
        columns.append(translate_images(translator.back, target))
    images = np.stack(columns, axis=1).reshape(-1, *target.shape[1:])
    return images, len(columns) * (3 if len(columns) < 4 else 2)  # noqa: PLR2004 - 9 or 8 in a row


def describe_form(form: SourceForm) -> dict[str, Any]:
    """Returns the form of sources as JSON values, which `SourceForm` takes back."""
    return asdict(form)
