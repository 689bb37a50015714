"""Cuts large sources into overlapping tiles, and joins their translations without seams.

All tiles of a source have one size. A pixel of the result is taken from a tile only if it is
farther than the receptive field from those sides of the tile that are not sides of the picture.
There, the result equals that of the whole picture, except that another order of sums may change a
pixel by one level.
"""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from imagemint.engine.spec import Source


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of one source, in pixels of the source."""

    height: int
    """Height of the source."""
    width: int
    """Width of the source."""
    tile_height: int
    tile_width: int
    tops: tuple[int, ...]
    """First row of each row of tiles."""
    lefts: tuple[int, ...]
    """First column of each column of tiles."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.tops) * len(self.lefts)

    def cut(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Returns the tiles uint8 [count, tile_height, tile_width, depth], row by row."""
        if self.count == 1:
            return pixels[np.newaxis]
        return np.stack(
            [
                pixels[top : top + self.tile_height, left : left + self.tile_width]
                for top, left in product(self.tops, self.lefts)
            ]
        )

    def join(self, tiles: npt.NDArray[np.uint8], scale: int) -> npt.NDArray[np.uint8]:
        """Joins the translated tiles of the source.

        Args:
            tiles: uint8 [count, tile_height * scale, tile_width * scale, channels].
            scale: pixels of the result per pixel of the source.
        """
        if self.count == 1:
            only: npt.NDArray[np.uint8] = tiles[0]
            return only
        image = np.empty((self.height * scale, self.width * scale, tiles.shape[-1]), np.uint8)
        rows = _find_parts(self.tops, self.tile_height, self.height)
        columns = _find_parts(self.lefts, self.tile_width, self.width)
        places = product(zip(self.tops, rows, strict=True), zip(self.lefts, columns, strict=True))
        for tile, ((top, row), (left, column)) in zip(tiles, places, strict=True):
            (y, y_stop), (x, x_stop) = row, column
            image[y * scale : y_stop * scale, x * scale : x_stop * scale] = tile[
                (y - top) * scale : (y_stop - top) * scale,
                (x - left) * scale : (x_stop - left) * scale,
            ]
        return image


def plan_tiles(height: int, width: int, source: Source) -> Tiling:
    """Returns the tiles of a source; a single one if it fits into one pass.

    Args:
        height: height of the source: the fixed one, or a multiple of step.
        width: width of the source, likewise.
        source: what the model takes.
    """
    tile_height, tile_width = min(height, source.height), min(width, source.width)
    step = max(1, source.step)
    margin = -(-source.overlap // step) * step
    return Tiling(
        height,
        width,
        tile_height,
        tile_width,
        _find_starts(height, tile_height, margin),
        _find_starts(width, tile_width, margin),
    )


def _find_starts(length: int, tile: int, margin: int) -> tuple[int, ...]:
    """Returns the starts of tiles: multiples of step, so that adjacent tiles share two margins."""
    if length == tile:
        return (0,)
    return (*range(0, length - tile, tile - 2 * margin), length - tile)


def _find_parts(starts: tuple[int, ...], tile: int, length: int) -> list[tuple[int, int]]:
    """Returns start and stop of the rows that each tile contributes, with half of each overlap."""
    seams = [0, *((start + tile + after) // 2 for start, after in pairwise(starts)), length]
    return list(pairwise(seams))
