"""Draws sheets that show the effect of truncation and of codes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imagemint.engine.sampling import Distribution, draw_latents
from imagemint.training.evaluation.sources import LatentSource

COLUMNS = 10
_ROWS = 5
_PSI = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
_THRESHOLDS = (None, 2.0, 1.5, 1.0, 0.5, 0.1)
_FURTHEST = 2.0  # range of a continuous code, as in the paper

Sheet = NDArray[np.uint8]


def make_truncation_sheet(source: LatentSource, seed: int) -> Sheet | None:
    """Returns the first ten images of a seed, once for each strength of truncation, row by row.

    psi 1 to 0, or thresholds from none down to 0.1; the first rows have more variety, the last ones
    more typical images. uint8 [60, H, W, C]; None for a model without truncation.
    """
    if source.takes_psi:
        z = draw_latents(seed, 0, COLUMNS, source.z_dim, distribution=source.distribution)
        z, psi = np.tile(z, (len(_PSI), 1)), np.repeat(np.array(_PSI, np.float32), COLUMNS)
    elif source.distribution is Distribution.NORMAL:
        rows = [
            draw_latents(seed, 0, COLUMNS, source.z_dim, threshold=threshold)
            for threshold in _THRESHOLDS
        ]
        z, psi = np.concatenate(rows), None
    else:
        return None
    classes = np.arange(len(z), dtype=np.int64) % COLUMNS % max(source.num_classes, 1)
    return source.generate(z, classes if source.num_classes else None, psi)


def make_code_sheets(source: LatentSource, seed: int) -> Iterator[tuple[str, Sheet, int]]:
    """Yields a sheet for each code of a model with codes; within a row, all else is fixed.

    Chen et al., "InfoGAN" (2016), figure 2. The columns are the values of the categorical code,
    and those of each continuous code from -2 to 2.

    Yields:
        name, images uint8 [5 columns, H, W, C], columns.
    """
    z = draw_latents(seed, 0, _ROWS, source.z_dim, distribution=source.distribution)
    values = np.arange(source.num_classes, dtype=np.int64)
    every = np.repeat(z, len(values), axis=0)
    yield "code", source.generate(every, np.tile(values, _ROWS)), len(values)
    classes = np.repeat(np.arange(_ROWS, dtype=np.int64) % source.num_classes, COLUMNS)
    for code in range(source.continuous_codes):
        moved = np.repeat(z, COLUMNS, axis=0)
        moved[:, code] = np.tile(np.linspace(-_FURTHEST, _FURTHEST, COLUMNS), _ROWS)
        yield f"code-{code + 1}", source.generate(moved, classes), COLUMNS
