"""Reads the origin of a picture that `encoding` has written."""

import io
import re
from typing import NamedTuple
from xml.sax.saxutils import unescape

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from imagemint.pictures.encoding import SERIAL_KEY

_FORMATS = ("PNG", "JPEG", "WEBP")
# The packet is our own, so its form is known. A parser of XML would resolve entities.
_IDENTIFIER = re.compile(r"<rdf:li>([^<]*)</rdf:li>")


class PictureOrigin(NamedTuple):
    """Pixels and serial numbers of a picture."""

    pixels: npt.NDArray[np.uint8]
    """Pixels uint8 [height, width, channels]; gray has 1 channel, everything else is RGB."""
    serials: tuple[str, ...]
    """Serial numbers in order, not checked; empty if it has none."""
    format: str
    """PNG, JPEG or WEBP."""


def read_picture(content: bytes) -> PictureOrigin:
    """Returns pixels and serial numbers of a picture.

    Args:
        content: a PNG, JPEG or WebP file.

    Raises:
        ValueError: it is none, or it is damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            picture.load()
            found = str(picture.format)
            text = picture.info.get(SERIAL_KEY, "")
            packet = picture.info.get("xmp", b"")
            gray = picture.mode == "L"
            pixels = np.asarray(picture if gray else picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG, JPEG or WebP file that can be read: {error}") from error
    serials = text.split("\n") if isinstance(text, str) and text else []
    if not serials and isinstance(packet, bytes):
        serials = [unescape(each) for each in _IDENTIFIER.findall(packet.decode(errors="replace"))]
    return PictureOrigin(pixels[..., np.newaxis] if gray else pixels, tuple(serials), found)
