"""Tests of imagemint.training.datasets.pictures."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagemint.training.datasets.pictures import (
    Shape,
    Stack,
    decode_picture,
    fit_picture,
    reshape_images,
)
from imagemint.training.errors import DatasetError


def encoded(picture, form="PNG", **options):
    """A picture as bytes."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def test_transparency_is_laid_on_white():
    """What lies under full transparency does not show."""
    picture = decode_picture(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 0))))
    assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))


RAMP = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (4, 1))
GRAY = Image.fromarray(RAMP)
PGM = b"P5\n16 4\n65535\n" + (RAMP.astype(">u2") * 257).tobytes()


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (encoded(GRAY), "L"),
        (encoded(Image.merge("LA", [GRAY, Image.new("L", GRAY.size, 255)])), "L"),
        (encoded(GRAY, transparency=3), "L"),
        (encoded(Image.fromarray(RAMP.astype(np.uint16) * 257)), "L"),
        (encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"), "L"),
        (encoded(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"), "L"),
        (encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "L"),
        (encoded(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"), "L"),
        (encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "L"),
        (PGM, "L"),
        (encoded(GRAY.convert("P")), "RGB"),
        (encoded(GRAY.convert("RGB").convert("CMYK"), "TIFF"), "RGB"),
        (encoded(GRAY.convert("RGBA"), "WEBP", lossless=True), "RGB"),
    ],
    ids=[
        "L",
        "LA",
        "tRNS",
        "I16",
        "I16tif",
        "I32tif",
        "I8in32tif",
        "F01",
        "F255",
        "pgm16",
        "P",
        "CMYK",
        "RGBA",
    ],
)
def test_levels_are_kept(content, mode):
    """A ramp from black to white stays one, whatever the depth in which it is stored."""
    picture = decode_picture(content)
    assert picture.mode == mode
    assert np.asarray(picture.convert("L"))[0].tolist() == RAMP[0].tolist()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array([[0, -1]], np.int32), "values from -1 to 0 in mode I"),
        (np.array([[0, 70_000]], np.int32), "values from 0 to 70000 in mode I"),
        (np.array([[0, np.nan]], np.float32), "values from nan to nan in mode F"),
        (np.array([[0, 300]], np.float32), "values from 0 to 300 in mode F"),
    ],
)
def test_levels_without_scale_are_refused(values, text):
    """Values that do not tell what is white are named, not clipped."""
    with pytest.raises(DatasetError, match=text):
        decode_picture(encoded(Image.fromarray(values), "TIFF"))


def test_gray_transparency_is_laid_on_white():
    """Gray under full transparency is white, and stays gray."""
    picture = decode_picture(encoded(Image.new("LA", (2, 2), (70, 0))))
    assert (picture.mode, picture.getpixel((0, 0))) == ("L", 255)


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "RGB"),
        ("PNG", "RGB"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
        ("PNG", "I;16"),
        ("TIFF", "I;16"),
    ],
)
def test_picture_stands_upright(form, mode):
    """A photograph taken sideways is turned as its EXIF says, in every format that has EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(encoded(Image.new(mode, (4, 2)), form, exif=exif)).size == (2, 4)


def test_xmp_orientation_is_heeded():
    """Some tools write the orientation into XMP instead."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    assert decode_picture(encoded(Image.new("RGB", (4, 2)), pnginfo=info)).size == (2, 4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated_picture_is_named(form):
    """Half a picture is none, in any format."""
    content = encoded(Image.effect_noise((64, 64), 90), form)
    with pytest.raises(DatasetError, match="unreadable picture"):
        decode_picture(content[: len(content) // 2])


def test_bomb_is_named(monkeypatch):
    """A picture of more pixels than Pillow thinks safe is refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"unreadable picture .*bomb"):
        decode_picture(encoded(Image.new("L", (50, 50))))


@pytest.mark.parametrize(
    ("mode", "becomes"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("RGB", "RGB")]
)
def test_stored_colours_decide(mode, becomes):
    """Gray stays gray, everything else is RGB."""
    assert decode_picture(encoded(Image.new(mode, (2, 2)))).mode == becomes


def test_colour_may_come_late():
    """Gray pictures before the first coloured one keep their levels in all three channels."""
    stack = Stack(3)
    for picture in (Image.new("L", (2, 2), 7), Image.new("RGB", (2, 2), (1, 2, 3))):
        stack.add(picture, "here", picture.size)
    assert stack.images()[:, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert stack.remarks() == ()


def test_longer_side_is_cropped():
    """The shorter side is scaled, the longer one loses both ends alike."""
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 240
    picture = np.asarray(fit_picture(Image.fromarray(wide), Shape(4, 1)))
    assert picture.shape == (4, 4)
    assert (picture == 240).all()


@pytest.mark.parametrize(
    ("size", "channels", "shape"),
    [(32, None, (2, 32, 32, 1)), (64, 3, (2, 64, 64, 3)), (None, 3, (2, 28, 28, 3))],
)
def test_images_are_brought_to_a_shape(size, channels, shape):
    """28 becomes 32 or 64, gray becomes RGB of equal channels."""
    images = np.full((2, 28, 28, 1), 90, np.uint8)
    found = reshape_images(images, Shape(size, channels))
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert (found == 90).all()


def test_fitting_images_are_left_alone():
    """Nothing is copied, let alone scaled, where the shape is right already."""
    images = np.zeros((2, 28, 28, 1), np.uint8)
    assert reshape_images(images, Shape(28, 1)) is images


@pytest.mark.parametrize(("size", "channels"), [(0, None), (-3, 1), (28, 2)])
def test_impossible_shape_is_refused(size, channels):
    """No picture has such a shape."""
    with pytest.raises(DatasetError, match=f"{size if size < 1 else channels}"):
        Shape(size, channels)
