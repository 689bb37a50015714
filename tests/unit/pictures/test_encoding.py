"""Encoded pictures: the right pixels, and what they say of themselves, read back with Pillow."""

import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from imagemint.pictures import (
    SERIAL_KEY,
    TRAINED_ALGORITHMIC_MEDIA,
    PictureFormat,
    encode,
)

SERIAL = "tiny@1/42/17?class=7&truncation=0.7"
NAMES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
ENCODED = [PictureFormat.PNG, PictureFormat.JPEG, PictureFormat.WEBP]


def noise(channels, height=12, width=9):
    """A picture that no codec can guess."""
    random = np.random.default_rng(channels)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def reopened(data):
    """The decoded picture; decoding is complete."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def xmp_of(image):
    """The XMP packet, wherever the format keeps it."""
    packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    return packet.decode() if isinstance(packet, bytes) else packet


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_is_the_bare_pixels(channels):
    """Row by row, channels last, nothing else."""
    pixels = noise(channels)
    assert encode(pixels, [SERIAL], PictureFormat.RAW) == pixels.tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_exact(channels):
    """Gray stays gray, colour stays colour, every pixel survives."""
    pixels = noise(channels)
    image = reopened(encode(pixels, [SERIAL], PictureFormat.PNG))
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert np.asarray(image).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_webp_at_100_is_exact(channels):
    """Quality 100 is lossless."""
    pixels = noise(channels)
    image = reopened(encode(pixels, [SERIAL], PictureFormat.WEBP, 100))
    assert (np.asarray(image) == pixels).all()  # WebP knows no gray: three equal channels


@pytest.mark.parametrize("picture_format", [PictureFormat.JPEG, PictureFormat.WEBP])
def test_quality_matters(picture_format):
    """Lower quality is smaller, and further from the pixels."""
    pixels = noise(3, 64, 64)
    low, high = (encode(pixels, [SERIAL], picture_format, quality) for quality in (10, 95))
    assert len(low) < len(high)
    assert picture_format.name == reopened(high).format

    def distance(data):
        return np.abs(np.asarray(reopened(data)).astype(int) - pixels).mean()

    assert distance(high) < distance(low)


@pytest.mark.parametrize("picture_format", ENCODED, ids=lambda each: each.value)
def test_picture_says_what_it_is(picture_format):
    """The serial and the IPTC digital source type stand in the XMP packet of every format."""
    image = reopened(encode(noise(1), [SERIAL], picture_format))
    root = ET.fromstring(xmp_of(image))  # noqa: S314 - our own text
    description = root.find(".//rdf:Description", NAMES)
    source_type = description.get(f"{{{NAMES['ext']}}}DigitalSourceType")
    assert source_type == TRAINED_ALGORITHMIC_MEDIA
    identifiers = description.findall("dc:identifier/rdf:Bag/rdf:li", NAMES)
    assert [each.text for each in identifiers] == [SERIAL]


def test_png_carries_its_serial_as_text():
    """Tools that know no XMP find it in a text chunk."""
    image = reopened(encode(noise(1), [SERIAL], PictureFormat.PNG))
    assert image.text[SERIAL_KEY] == SERIAL


@pytest.mark.parametrize("picture_format", ENCODED, ids=lambda each: each.value)
def test_picture_without_serial_says_the_rest(picture_format):
    """Images of explicit latents are still declared as generated."""
    image = reopened(encode(noise(3), [], picture_format))
    assert TRAINED_ALGORITHMIC_MEDIA in xmp_of(image)
    assert "<rdf:li>" not in xmp_of(image)


@pytest.mark.parametrize("picture_format", ENCODED, ids=lambda each: each.value)
def test_sheet_of_a_thousand_is_encoded(picture_format):
    """All serials are in it, or, in the one segment of a JPEG, as many as fit."""
    serials = [f"tiny@1/{2**64 - 1}/{2**64 - 1 - i}?class=7" for i in range(1_024)]
    packet = xmp_of(reopened(encode(noise(1), serials, picture_format)))
    carried = packet.count("<rdf:li>")
    assert f"<rdf:li>{serials[carried - 1]}</rdf:li>" in packet
    assert carried == 1_024 or (picture_format is PictureFormat.JPEG and carried > 700)
