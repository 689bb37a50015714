"""Measures parity: how much the served pixels differ from those of the exported network."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from imagemint.engine.backend import Backend
from imagemint.engine.batch import Batch, draw_batch
from imagemint.engine.captions import PADDING, Captions
from imagemint.engine.sampling import draw_classes
from imagemint.engine.spec import ModelSpec
from imagemint.exporter.errors import ExportError
from imagemint.training.trained import TrainedGenerator
from imagemint.v1 import manifest_pb2 as pb

SAMPLES = 1000
BATCH_SIZES = (1, 3, 64)
SEED = 0
_PART = math.lcm(
    *BATCH_SIZES
)  # 192: all sizes divide it, so only the last part has smaller batches

_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference of the served pixels."""

    levels: int = 1
    """Largest difference of any pixel value, in levels of 255."""
    share: float = 0.001
    """Largest share of pixel values that differ at all, 0 to 1."""


@dataclass(frozen=True)
class Original:
    """The model that a bundle is made from and compared with."""

    name: str
    """Name for people."""
    pixels: Callable[[Batch], _Pixels]
    """Returns the images uint8 [N, H, W, C] of a batch, rounded by other code than the code under
    test.
    """


def make_pytorch_original(trained: TrainedGenerator) -> Original:
    """Returns the network of a run as an original."""
    return Original("PyTorch", lambda batch: run_pytorch(trained, batch))


def measure_parity(
    original: Original,
    spec: ModelSpec,
    backend: Backend,
    tolerance: Tolerance,
    inputs: Sequence[Batch] | None = None,
) -> pb.Parity:
    """Compares the backend with the original in all batch sizes.

    On a terminal, a bar shows how many images are computed.

    Args:
        original: the model from which the bundle was made.
        spec: the model.
        backend: runs the bundle.
        tolerance: largest accepted difference.
        inputs: inputs of the comparison, such as sources of several sizes. Default: those of
            `make_inputs`.

    Raises:
        ExportError: the difference exceeds the tolerance, or the pixels depend on the batch size.
            The message gives the figures.
    """
    compared = [make_inputs(spec)] if inputs is None else inputs
    largest, differing, values = 0, 0, 0
    with _make_bar(sum(map(len, compared)) * (len(BATCH_SIZES) + 1)) as bar:
        for part in _split(compared):
            served = _check_sizes(backend, part, bar)
            difference = np.abs(served.astype(np.int16) - original.pixels(part))
            bar.update(len(part))
            largest = max(largest, int(difference.max()))
            differing += int(np.count_nonzero(difference))
            values += difference.size
    parity = pb.Parity(
        samples=sum(map(len, compared)),
        batch_sizes=BATCH_SIZES,
        max_difference=largest,
        differing_share=differing / values,
        tolerance_difference=tolerance.levels,
        tolerance_share=tolerance.share,
        backend=backend.description,
    )
    if parity.max_difference > tolerance.levels or parity.differing_share > tolerance.share:
        raise ExportError(
            f"{backend.description} differs from {original.name} by up to "
            f"{parity.max_difference} levels and in {parity.differing_share:.3%} of the pixel "
            f"values; allowed are {tolerance.levels} and {tolerance.share:.3%}. If the difference"
            " is only rounding, raise --tolerance-levels or --tolerance-share"
        )
    return parity


def check_batch_independence(spec: ModelSpec, backend: Backend) -> None:
    """Checks that the images of the first 1,000 serials of seed 0 are equal in all batch sizes.

    Raises:
        ExportError: the images depend on the batch size.
    """
    with _make_bar(SAMPLES * len(BATCH_SIZES)) as bar:
        for part in _split([make_inputs(spec)]):
            _check_sizes(backend, part, bar)


def _make_bar(images: int) -> "tqdm[NoReturn]":
    return tqdm(total=images, desc="comparing", unit=" images", leave=False, disable=None)


def _split(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yields parts whose images fit into memory, also those of 1024 x 1024 pixels."""
    for batch in batches:
        for start in range(0, len(batch), _PART):
            yield batch[start : start + _PART]


def _check_sizes(backend: Backend, inputs: Batch, bar: "tqdm[NoReturn]") -> _Pixels:
    served = [_run_backend(backend, inputs, size, bar) for size in BATCH_SIZES]
    for size, pixels in zip(BATCH_SIZES, served, strict=True):
        if differing := int(np.count_nonzero(pixels != served[-1])):
            raise ExportError(
                f"{backend.description}: {differing:,} pixel values of {len(inputs):,} images"
                f" differ between batches of {size} and of {BATCH_SIZES[-1]}; a serial would change"
                " its image"
            )
    return served[-1]


def make_inputs(spec: ModelSpec) -> Batch:
    """Returns the inputs of the compared serials.

    Psi goes from 0 to 1. Every second caption consists of random words instead of being an example,
    because the examples have few of the words, and often one length.
    """
    batch = draw_batch(spec, SEED, 0, SAMPLES)
    if spec.takes_psi:
        batch = replace(batch, truncation=np.linspace(0, 1, SAMPLES, dtype=np.float32))
    if spec.captions is not None and batch.tokens is not None:
        tokens = batch.tokens.copy()
        tokens[1::2] = _draw_captions(spec.captions, SAMPLES // 2)
        batch = replace(batch, tokens=tokens)
    return batch


def _draw_captions(captions: Captions, count: int) -> npt.NDArray[np.int64]:
    """Returns token ids int64 [count, max_words] of one to `max_words` words."""
    length = captions.max_words
    words = 1 + draw_classes(SEED, 0, count * length, len(captions.vocabulary))
    lengths = 1 + draw_classes(SEED + 1, 0, count, length)
    is_word = np.arange(length) < lengths[:, np.newaxis]
    return np.where(is_word, words.reshape(count, length), PADDING)


def run_pytorch(trained: TrainedGenerator, batch: Batch) -> _Pixels:
    """Returns PyTorch's images uint8 [N, H, W, C], rounded here."""
    batches = []
    with torch.inference_mode():
        for start in range(0, len(batch), BATCH_SIZES[-1]):
            part = batch[start : start + BATCH_SIZES[-1]]
            inputs = {}
            if part.class_id is not None:
                inputs["y"] = torch.from_numpy(part.class_id)
            if part.tokens is not None:
                inputs["tokens"] = torch.from_numpy(part.tokens)
            if part.truncation is not None:
                inputs["truncation"] = torch.from_numpy(part.truncation)[:, None]
            assert part.z is not None  # noqa: S101 - a generator takes latents
            batches.append(trained.module(torch.from_numpy(part.z), **inputs).numpy())
    return round_images(np.concatenate(batches))


def round_images(images: npt.NDArray[np.float32]) -> _Pixels:
    """Returns levels uint8 [N, H, W, C] of images [N, C, H, W] in [-1, 1].

    Raises:
        ExportError: a value is NaN.
    """
    check_values(images, "PyTorch")
    x = images.transpose(0, 2, 3, 1)
    levels = np.rint(np.clip(x * np.float32(127.5) + np.float32(127.5), 0, 255))
    pixels: _Pixels = levels.astype(np.uint8)
    return pixels


def check_values(values: npt.NDArray[np.float32], name: str) -> None:
    """Checks that no value of an original is NaN.

    NaN has no level: processors convert it to different ones, so a serial would change its image.

    Args:
        values: values of images.
        name: the original, for the error message.

    Raises:
        ExportError: a value is NaN.
    """
    if share := float(np.isnan(values).mean()):
        raise ExportError(
            f"{share:.2%} of the values of some images are NaN in {name}, so these images have no"
            " pixels. Export weights with which every image can be computed"
        )


def _run_backend(backend: Backend, batch: Batch, size: int, bar: "tqdm[NoReturn]") -> _Pixels:
    images = []
    for start in range(0, len(batch), size):
        images.append(backend.run(batch[start : start + size]))
        bar.update(len(images[-1]))
    return np.concatenate(images)
