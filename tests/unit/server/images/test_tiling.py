"""Tests of tiles, which cover the source without visible seams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sources import draw

from imagemint.engine.spec import Source
from imagemint.server.images.tiling import plan_tiles

SIDES = st.integers(1, 40)


@given(SIDES, SIDES, st.integers(1, 5), st.integers(0, 9), st.integers(1, 3))
def test_tiles_give_every_pixel(height, width, step, overlap, scale):
    """Joined tiles equal the source, and no pixel is nearer to a cut side than the overlap."""
    margin = -(-overlap // step) * step
    side = (2 * margin // step + 3) * step
    source = Source(side, side + step, 1, step=step, overlap=overlap, is_tiled=True, scale=scale)
    height, width = height * step, width * step
    tiling = plan_tiles(height, width, source)
    pixels = draw(1, height, width, 1)
    tiles = tiling.cut(pixels)
    assert tiles.shape == (tiling.count, min(height, side), min(width, side + step), 1)
    assert all(start % step == 0 for start in (*tiling.tops, *tiling.lefts))

    # Pixels within the overlap at a cut side are changed, as by a convolution.
    spoiled = tiles.astype(int)
    places = [(top, left) for top in tiling.tops for left in tiling.lefts]
    for tile, (top, left) in zip(spoiled, places, strict=True):
        tile[: overlap if top else 0] = -1
        tile[:, : overlap if left else 0] = -1
        if top + tiling.tile_height < height and overlap:
            tile[-overlap:] = -1
        if left + tiling.tile_width < width and overlap:
            tile[:, -overlap:] = -1
    marked = np.where(spoiled < 0, 0, 1).astype(np.uint8)
    large = np.repeat(np.repeat(marked, scale, 1), scale, 2)
    assert tiling.join(large, scale).all()
    joined = tiling.join(np.repeat(np.repeat(tiles, scale, 1), scale, 2), scale)
    assert np.array_equal(joined[::scale, ::scale], pixels)


@pytest.mark.parametrize(
    ("size", "tops", "lefts"),
    [((32, 48), (0,), (0,)), ((8, 52), (0,), (0, 4)), ((100, 48), (0, 24, 48, 68), (0,))],
)
def test_starts_of_tiles(size, tops, lefts):
    """Tiles start every tile less two overlaps; the last one ends with the source."""
    source = Source(32, 48, 3, step=4, overlap=3, is_tiled=True)
    tiling = plan_tiles(*size, source)
    assert (tiling.tops, tiling.lefts) == (tops, lefts)
