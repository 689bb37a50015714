"""Writes samples.png: the images of fixed serials, computed by the engine of the server."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagemint.engine import Serial
from imagemint.engine.backend import Backend
from imagemint.engine.batch import draw_batch
from imagemint.engine.spec import ModelSpec

COLUMNS = 10
SEED = 0
_MAX_ROWS = 100  # a model with more classes or examples shows the first hundred
_GAP = 2
_WHITE = 255


def write_samples(path: Path, backend: Backend, spec: ModelSpec, version: int) -> None:
    """Writes a row of ten images for each class or example caption, or else ten rows.

    The images are the first of seed 0, in reading order. The PNG has text chunks with this
    description.
    """
    rows = min(spec.num_choices, _MAX_ROWS) or COLUMNS
    count = rows * COLUMNS
    row_indices = np.repeat(np.arange(rows, dtype=np.int64), COLUMNS)
    batch = draw_batch(spec, SEED, 0, count)
    if spec.conditional:
        batch = replace(batch, class_id=row_indices)
    if spec.captions is not None:
        batch = replace(batch, tokens=spec.captions.example_tokens[row_indices])
    sheet = tile_images(backend.run(batch), COLUMNS)
    first, last = (
        Serial(
            *(spec.name, version, SEED, index),
            class_id=int(row_indices[index]) if spec.conditional else None,
            caption=None if spec.captions is None else spec.captions.examples[row_indices[index]],
        )
        for index in (0, count - 1)
    )
    png_info = PngInfo()
    png_info.add_text("Serials", f"{first} to {last}")
    png_info.add_text("DigitalSourceType", "trainedAlgorithmicMedia")
    picture = Image.fromarray(sheet[:, :, 0] if spec.channels == 1 else sheet)
    picture.save(path, format="PNG", optimize=True, pnginfo=png_info)


def tile_images(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Returns one picture [H, W, C] of images [N, h, w, C] with white gaps between them."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    framed = np.pad(
        images,
        ((0, rows * columns - count), (0, _GAP), (0, _GAP), (0, 0)),
        constant_values=_WHITE,
    ).reshape(rows, columns, height + _GAP, width + _GAP, channels)
    sheet = framed.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + _GAP), columns * (width + _GAP), channels
    )
    return np.pad(sheet, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=_WHITE)
