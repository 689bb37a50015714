"""Tests of sources of other sizes, which are refused, cropped, padded or scaled."""

import numpy as np
import pytest
from made_sources import draw

from imagemint.engine.spec import Source
from imagemint.server.images.fitting import Fit, SizeRefused, compute_size, fit_source

FIXED = Source(6, 8, 3)
FREE = Source(64, 64, 3, step=4, is_tiled=True)
WHOLE = Source(32, 32, 3, step=4)
MASKED = Source(6, 8, 3, frames=2, has_mask=True)
PALE = np.full((1, 1, 3), 200, np.uint8)


def test_fitting_size_is_kept():
    """A source that fits is unchanged with every option."""
    for source, pixels in ((FIXED, draw(1)), (FREE, draw(1, 100, 8))):
        for fit in Fit:
            assert fit_source(pixels, source, fit) is pixels


@pytest.mark.parametrize(
    ("source", "size", "told"),
    [
        (FIXED, (8, 6), "6 x 8 pixels; the model takes 8 x 6"),
        (FREE, (8, 10), "10 x 8 pixels; the model takes multiples of 4"),
        (WHOLE, (32, 36), "36 x 32 pixels; the model takes at most 32 x 32"),
    ],
)
def test_other_sizes_are_refused(source, size, told):
    """The message has the size that the model takes, width first as in pictures."""
    with pytest.raises(SizeRefused, match=told):
        compute_size(*size, source, Fit.REFUSE)


@pytest.mark.parametrize(
    ("fit", "size"), [(Fit.CROP, (8, 8)), (Fit.PAD, (12, 12)), (Fit.STRETCH, (12, 8))]
)
def test_free_sizes(fit, size):
    """Free sizes become multiples of the step: below, above, or the nearest."""
    assert compute_size(10, 9, FREE, fit) == size
    assert fit_source(draw(1, 10, 9), FREE, fit).shape == (*size, 3)


def test_free_crop_and_pad_keep_pixels():
    """Neither option scales the source, and its centre stays in the centre."""
    pixels = draw(1, 10, 9)
    assert np.array_equal(fit_source(pixels, FREE, Fit.CROP), pixels[1:9, 0:8])
    padded = fit_source(pixels, FREE, Fit.PAD)
    assert np.array_equal(padded[1:11, 1:10], pixels)
    assert (padded[[0, 11]] == 255).all()


def test_small_sources():
    """A source smaller than the step can be padded or scaled, but not cropped."""
    with pytest.raises(SizeRefused, match="a side of 3 pixels"):
        compute_size(8, 3, FREE, Fit.CROP)
    assert compute_size(1, 3, FREE, Fit.STRETCH) == (4, 4)
    assert compute_size(1, 3, FREE, Fit.PAD) == (4, 4)


@pytest.mark.parametrize("size", [(60, 80), (60, 90), (90, 80), (7, 9), (1, 1), (1, 500), (500, 1)])
def test_crop_covers_a_fixed_size(size):
    """The source fills the whole result, whatever its aspect ratio."""
    pixels = np.broadcast_to(PALE, (*size, 3))
    fitted = fit_source(pixels, FIXED, Fit.CROP)
    assert fitted.shape == (6, 8, 3)
    assert (fitted == 200).all()


@pytest.mark.parametrize(
    ("size", "inside"),
    [((60, 80), (6, 8)), ((60, 60), (6, 6)), ((1, 500), (1, 8)), ((9, 1), (6, 1))],
)
def test_pad_contains_the_source(size, inside):
    """The source is scaled to fit, and the rest is white."""
    fitted = fit_source(np.broadcast_to(PALE, (*size, 3)), FIXED, Fit.PAD)
    assert fitted.shape == (6, 8, 3)
    assert (fitted == 200).sum() == inside[0] * inside[1] * 3
    assert set(np.unique(fitted)) <= {200, 255}


def test_stretch_fills_a_fixed_size():
    """The aspect ratio changes, but not the content."""
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[:2] = 255
    fitted = fit_source(pixels, FIXED, Fit.STRETCH)
    assert (fitted[0] > 240).all()
    assert (fitted[-1] < 15).all()


def test_masks_stay_masks():
    """A scaled mask is 0 or 255, and 0 beside the source."""
    pixels = draw(1, 31, 45, 7)
    pixels[..., -1] = np.where(pixels[..., -1] < 128, 0, 255)
    for fit in (Fit.CROP, Fit.STRETCH, Fit.PAD):
        fitted = fit_source(pixels, MASKED, fit)
        assert fitted.shape == (6, 8, 7)
        assert set(np.unique(fitted[..., -1])) == {0, 255}
    pixels[..., -1] = 255
    fitted = fit_source(np.ascontiguousarray(pixels[:, :8]), MASKED, Fit.PAD)
    assert (fitted[:, 0, -1] == 0).all()
    assert (fitted[:, 0, :-1] == 255).all()
