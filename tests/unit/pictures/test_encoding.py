"""Tests of encoded pictures and their metadata, read with Pillow."""

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


def make_noise(channels, height=12, width=9):
    """Returns a picture of noise."""
    random = np.random.default_rng(channels)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def decode(data):
    """Returns the completely decoded picture."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def read_xmp(image):
    """Returns the XMP packet of any format."""
    packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    return packet.decode() if isinstance(packet, bytes) else packet


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_is_the_plain_pixels(channels):
    """Raw bytes are the pixels by rows, channels last."""
    pixels = make_noise(channels)
    assert encode(pixels, [SERIAL], PictureFormat.RAW) == pixels.tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_lossless(channels):
    """Gray and colour images keep their mode and every pixel."""
    pixels = make_noise(channels)
    image = decode(encode(pixels, [SERIAL], PictureFormat.PNG))
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert np.asarray(image).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_webp_at_100_is_lossless(channels):
    """WebP with quality 100 keeps every pixel."""
    pixels = make_noise(channels)
    image = decode(encode(pixels, [SERIAL], PictureFormat.WEBP, 100))
    assert (np.asarray(image) == pixels).all()  # WebP has no gray mode: three equal channels


@pytest.mark.parametrize("picture_format", [PictureFormat.JPEG, PictureFormat.WEBP])
def test_quality_affects_size_and_pixels(picture_format):
    """A lower quality gives a smaller file with larger differences."""
    pixels = make_noise(3, 64, 64)
    low, high = (encode(pixels, [SERIAL], picture_format, quality) for quality in (10, 95))
    assert len(low) < len(high)
    assert picture_format.name == decode(high).format

    def distance(data):
        return np.abs(np.asarray(decode(data)).astype(int) - pixels).mean()

    assert distance(high) < distance(low)


@pytest.mark.parametrize("picture_format", ENCODED, ids=lambda each: each.value)
def test_picture_has_serial_and_source_type(picture_format):
    """The XMP packet of every format has the serial and the IPTC digital source type."""
    image = decode(encode(make_noise(1), [SERIAL], picture_format))
    root = ET.fromstring(read_xmp(image))  # noqa: S314 - our own text
    description = root.find(".//rdf:Description", NAMES)
    source_type = description.get(f"{{{NAMES['ext']}}}DigitalSourceType")
    assert source_type == TRAINED_ALGORITHMIC_MEDIA
    identifiers = description.findall("dc:identifier/rdf:Bag/rdf:li", NAMES)
    assert [identifier.text for identifier in identifiers] == [SERIAL]


def test_png_has_its_serial_as_text():
    """Tools without XMP support find the serial in a text chunk."""
    image = decode(encode(make_noise(1), [SERIAL], PictureFormat.PNG))
    assert image.text[SERIAL_KEY] == SERIAL


@pytest.mark.parametrize("picture_format", ENCODED, ids=lambda each: each.value)
def test_picture_without_serial_has_the_source_type(picture_format):
    """Images of explicit latents are also marked as generated."""
    image = decode(encode(make_noise(3), [], picture_format))
    assert TRAINED_ALGORITHMIC_MEDIA in read_xmp(image)
    assert "<rdf:li>" not in read_xmp(image)


@pytest.mark.parametrize("picture_format", ENCODED, ids=lambda each: each.value)
def test_sheet_has_a_thousand_serials(picture_format):
    """The packet has all serials. The one segment of a JPEG has as many as fit."""
    serials = [f"tiny@1/{2**64 - 1}/{2**64 - 1 - i}?class=7" for i in range(1_024)]
    packet = read_xmp(decode(encode(make_noise(1), serials, picture_format)))
    carried = packet.count("<rdf:li>")
    assert f"<rdf:li>{serials[carried - 1]}</rdf:li>" in packet
    assert carried == 1_024 or (picture_format is PictureFormat.JPEG and carried > 700)
