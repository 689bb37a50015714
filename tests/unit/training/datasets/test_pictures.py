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


def encode_image(picture, form="PNG", **options):
    """Returns an image as bytes."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def test_transparency_becomes_white():
    """The colour of a fully transparent pixel does not show."""
    picture = decode_picture(encode_image(Image.new("RGBA", (2, 2), (200, 0, 0, 0))))
    assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))


RAMP = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (4, 1))
GRAY = Image.fromarray(RAMP)
PGM = b"P5\n16 4\n65535\n" + (RAMP.astype(">u2") * 257).tobytes()


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (encode_image(GRAY), "L"),
        (encode_image(Image.merge("LA", [GRAY, Image.new("L", GRAY.size, 255)])), "L"),
        (encode_image(GRAY, transparency=3), "L"),
        (encode_image(Image.fromarray(RAMP.astype(np.uint16) * 257)), "L"),
        (encode_image(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"), "L"),
        (encode_image(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"), "L"),
        (encode_image(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "L"),
        (encode_image(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"), "L"),
        (encode_image(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "L"),
        (PGM, "L"),
        (encode_image(GRAY.convert("P")), "RGB"),
        (encode_image(GRAY.convert("RGB").convert("CMYK"), "TIFF"), "RGB"),
        (encode_image(GRAY.convert("RGBA"), "WEBP", lossless=True), "RGB"),
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
def test_levels_are_preserved(content, mode):
    """A ramp from black to white is preserved at every bit depth."""
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
    """Values of an unknown range are an error instead of being clipped."""
    with pytest.raises(DatasetError, match=text):
        decode_picture(encode_image(Image.fromarray(values), "TIFF"))


def test_gray_transparency_becomes_white():
    """A fully transparent gray pixel becomes white, and the image stays gray."""
    picture = decode_picture(encode_image(Image.new("LA", (2, 2), (70, 0))))
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
def test_exif_orientation_is_applied(form, mode):
    """A photograph is rotated as its EXIF says, in every format with EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(encode_image(Image.new(mode, (4, 2)), form, exif=exif)).size == (2, 4)


def test_xmp_orientation_is_applied():
    """Some tools write the orientation into XMP."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    assert decode_picture(encode_image(Image.new("RGB", (4, 2)), pnginfo=info)).size == (2, 4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated_image_is_refused(form):
    """Half of an image is an error in every format."""
    content = encode_image(Image.effect_noise((64, 64), 90), form)
    with pytest.raises(DatasetError, match="unreadable picture"):
        decode_picture(content[: len(content) // 2])


def test_decompression_bomb_is_refused(monkeypatch):
    """An image with more pixels than Pillow considers safe is refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"unreadable picture .*bomb"):
        decode_picture(encode_image(Image.new("L", (50, 50))))


@pytest.mark.parametrize(
    ("mode", "becomes"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("RGB", "RGB")]
)
def test_colour_mode_follows_the_file(mode, becomes):
    """Gray images stay gray, and all others become RGB."""
    assert decode_picture(encode_image(Image.new(mode, (2, 2)))).mode == becomes


def test_first_colour_image_converts_earlier_ones():
    """Gray images before the first colour image keep their levels in all three channels."""
    stack = Stack(3)
    for picture in (Image.new("L", (2, 2), 7), Image.new("RGB", (2, 2), (1, 2, 3))):
        stack.add(picture, "here", picture.size)
    assert stack.get_images()[:, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert stack.list_remarks() == ()


@pytest.mark.parametrize("size", [(4, 2), (3, 1)])
def test_picture_of_another_size_is_refused(size):
    """Another width or another height is an error that names the picture."""
    stack = Stack(2)
    stack.add(Image.new("L", (3, 2)), "first", (3, 2))
    with pytest.raises(DatasetError, match=r"second: picture of .*, the first is of \(2, 3\)"):
        stack.add(Image.new("L", size), "second", size)


def test_longer_side_is_cropped():
    """The shorter side is scaled, and the longer one is cropped equally at both ends."""
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 240
    picture = np.asarray(fit_picture(Image.fromarray(wide), Shape(4, 1)))
    assert picture.shape == (4, 4)
    assert (picture == 240).all()


@pytest.mark.parametrize(
    ("size", "channels", "shape"),
    [(32, None, (2, 32, 32, 1)), (64, 3, (2, 64, 64, 3)), (None, 3, (2, 28, 28, 3))],
)
def test_images_are_resized_and_converted(size, channels, shape):
    """28 pixels become 32 or 64, and gray becomes RGB with equal channels."""
    images = np.full((2, 28, 28, 1), 90, np.uint8)
    found = reshape_images(images, Shape(size, channels))
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert (found == 90).all()


def test_matching_images_are_not_copied():
    """Images that already have the shape are returned as they are."""
    images = np.zeros((2, 28, 28, 1), np.uint8)
    assert reshape_images(images, Shape(28, 1)) is images


@pytest.mark.parametrize(("size", "channels"), [(0, None), (-3, 1), (28, 2)])
def test_impossible_shape_is_refused(size, channels):
    """No image has a size below 1 or two channels."""
    with pytest.raises(DatasetError, match=f"{size if size < 1 else channels}"):
        Shape(size, channels)
