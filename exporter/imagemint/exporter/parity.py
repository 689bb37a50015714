"""How far the served pixels stray from the network they were exported from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from imagemint.engine import drawn_classes, latents
from imagemint.engine.backend import Backend
from imagemint.exporter.errors import ExportError
from imagemint.training.checkpoints import TrainedGenerator
from imagemint.v1 import manifest_pb2 as pb

SAMPLES = 1000
BATCH_SIZES = (1, 3, 64)
SEED = 0

_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """How far the served pixels may stray."""

    levels: int = 1
    """Largest difference of any pixel value, in levels of 255."""
    share: float = 0.001
    """Largest share of pixel values that differ at all, 0 to 1."""


def measure_parity(trained: TrainedGenerator, backend: Backend, tolerance: Tolerance) -> pb.Parity:
    """Compares the backend with PyTorch on the first 1,000 serials of seed 0, at every batch size.

    Raises:
        ExportError: the difference is over the tolerance, or the backend's pixels depend on the
            batch size; says the figures.
    """
    z = latents(SEED, 0, SAMPLES, trained.z_dim, distribution=trained.distribution)
    classes = (
        drawn_classes(SEED, 0, SAMPLES, len(trained.class_labels)) if trained.class_labels else None
    )
    # Every strength of it, each on other latents.
    psi = np.linspace(0, 1, SAMPLES, dtype=np.float32) if trained.truncation == "psi" else None
    served = [_served(backend, z, classes, psi, size) for size in BATCH_SIZES]
    for size, pixels in zip(BATCH_SIZES, served, strict=True):
        if differing := int(np.count_nonzero(pixels != served[-1])):
            raise ExportError(
                f"{backend.description}: {differing:,} pixel values differ between batches of "
                f"{size} and of {BATCH_SIZES[-1]}; a serial would change its picture"
            )
    difference = np.abs(served[-1].astype(np.int16) - expected_pixels(trained, z, classes, psi))
    parity = pb.Parity(
        samples=SAMPLES,
        batch_sizes=BATCH_SIZES,
        max_difference=int(difference.max()),
        differing_share=float(np.count_nonzero(difference) / difference.size),
        tolerance_difference=tolerance.levels,
        tolerance_share=tolerance.share,
        backend=backend.description,
    )
    if parity.max_difference > tolerance.levels or parity.differing_share > tolerance.share:
        raise ExportError(
            f"{backend.description} differs from PyTorch by up to {parity.max_difference} levels, "
            f"{parity.differing_share:.3%} of the pixel values at all; allowed are "
            f"{tolerance.levels} and {tolerance.share:.3%}"
        )
    return parity


def expected_pixels(
    trained: TrainedGenerator,
    z: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64] | None,
    psi: npt.NDArray[np.float32] | None = None,
) -> _Pixels:
    """PyTorch's own images uint8 [N, H, W, C], rounded here and not by what is under test."""
    batches = []
    with torch.inference_mode():
        for start in range(0, len(z), BATCH_SIZES[-1]):
            part = slice(start, start + BATCH_SIZES[-1])
            told = {}
            if classes is not None:
                told["y"] = torch.from_numpy(classes[part])
            if psi is not None:
                told["truncation"] = torch.from_numpy(psi[part])[:, None]
            batches.append(trained.module(torch.from_numpy(z[part]), **told).numpy())
    x: npt.NDArray[np.float32] = np.concatenate(batches).transpose(0, 2, 3, 1)
    levels = np.rint(np.clip(x * np.float32(127.5) + np.float32(127.5), 0, 255))
    pixels: _Pixels = levels.astype(np.uint8)
    return pixels


def _served(
    backend: Backend,
    z: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64] | None,
    psi: npt.NDArray[np.float32] | None,
    size: int,
) -> _Pixels:
    def run(part: slice) -> _Pixels:
        told = None if classes is None else classes[part]
        return backend.run(z[part], told, None if psi is None else psi[part])

    return np.concatenate([run(slice(at, at + size)) for at in range(0, len(z), size)])
