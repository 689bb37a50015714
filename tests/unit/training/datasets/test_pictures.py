"""Tests of imagemint.training.datasets.pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets.pictures import Shape, decoded, fitted, reshaped
from imagemint.training.errors import DatasetError


def encoded(picture, form="PNG", **options):
    """A picture as bytes."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def test_transparency_is_laid_on_white():
    """What lies under full transparency does not show."""
    picture = decoded(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 0))))
    assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_picture_stands_upright():
    """A photograph taken sideways is turned as its EXIF says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decoded(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)).size == (2, 4)


@pytest.mark.parametrize(
    ("mode", "becomes"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("RGB", "RGB")]
)
def test_stored_colours_decide(mode, becomes):
    """Gray stays gray, everything else is RGB."""
    assert decoded(encoded(Image.new(mode, (2, 2)))).mode == becomes


def test_longer_side_is_cropped():
    """The shorter side is scaled, the longer one loses both ends alike."""
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 240
    picture = np.asarray(fitted(Image.fromarray(wide), Shape(4, 1)))
    assert picture.shape == (4, 4)
    assert (picture == 240).all()


@pytest.mark.parametrize(
    ("size", "channels", "shape"),
    [(32, None, (2, 32, 32, 1)), (64, 3, (2, 64, 64, 3)), (None, 3, (2, 28, 28, 3))],
)
def test_images_are_brought_to_a_shape(size, channels, shape):
    """28 becomes 32 or 64, gray becomes RGB of equal channels."""
    images = np.full((2, 28, 28, 1), 90, np.uint8)
    found = reshaped(images, Shape(size, channels))
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert (found == 90).all()


def test_fitting_images_are_left_alone():
    """Nothing is copied, let alone scaled, where the shape is right already."""
    images = np.zeros((2, 28, 28, 1), np.uint8)
    assert reshaped(images, Shape(28, 1)) is images


@pytest.mark.parametrize(("size", "channels"), [(0, None), (-3, 1), (28, 2)])
def test_impossible_shape_is_refused(size, channels):
    """No picture has such a shape."""
    with pytest.raises(DatasetError, match=f"{size if size < 1 else channels}"):
        Shape(size, channels)
