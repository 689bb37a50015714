"""Encodes images as PNG, JPEG or WebP with their origin in the metadata.

Each encoded picture has an XMP packet with its serial number, the variant that computed it, and the
IPTC digital source type ``trainedAlgorithmicMedia``. PNG files also have the serial and the variant
in text chunks.
"""

import enum
import io
import itertools
from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

# IPTC NewsCodes, https://cv.iptc.org/newscodes/digitalsourcetype/
TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SERIAL_KEY = "imagemint:serial"
VARIANT_KEY = "imagemint:variant"
DEFAULT_QUALITY = 90
_LOSSLESS_QUALITY = 100
# The XMP packet of a JPEG must fit one APP1 segment: 64 KB less the length field and the name
# space.
_MOST_JPEG_XMP_BYTES = 65_533 - len(b"http://ns.adobe.com/xap/1.0/\0")


class PictureFormat(enum.StrEnum):
    """Encoding of a picture. The value is its name in metrics and in Pillow."""

    RAW = "raw"
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


LARGEST_SIDE = {PictureFormat.JPEG: 65_500, PictureFormat.WEBP: 16_383}
"""Most pixels of a side, for encodings with a limit."""


def encode(
    pixels: npt.NDArray[np.uint8],
    serials: Sequence[str],
    picture_format: PictureFormat,
    quality: int = DEFAULT_QUALITY,
    *,
    variant: str = "",
) -> bytes:
    """Returns one encoded picture.

    Args:
        pixels: uint8 [height, width, channels]; 1 channel is gray, 3 are RGB.
        serials: serial numbers of the images in the picture, in order; empty for explicit latents.
            A JPEG has room for about 700 and holds the first ones that fit.
        picture_format: RAW returns the pixels without metadata.
        quality: 1 to 100, for JPEG and WEBP. WEBP is lossless at 100.
        variant: name of the variant that made the images; empty to leave it out.
    """
    if picture_format is PictureFormat.RAW:
        return pixels.tobytes()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    out = io.BytesIO()
    packet = build_xmp(serials, variant)
    match picture_format:
        case PictureFormat.PNG:
            image.save(out, "PNG", pnginfo=build_png_text(serials, variant, packet))
        case PictureFormat.JPEG:
            image.save(out, "JPEG", quality=quality, xmp=_fit_xmp(serials, variant))
        case PictureFormat.WEBP:
            lossless = quality == _LOSSLESS_QUALITY
            image.convert("RGB").save(out, "WEBP", quality=quality, lossless=lossless, xmp=packet)
    return out.getvalue()


def build_png_text(serials: Sequence[str], variant: str, packet: bytes) -> PngInfo:
    """Returns the text chunks of a PNG: serials, variant, and the XMP packet."""
    text = PngInfo()
    if serials:
        text.add_text(SERIAL_KEY, "\n".join(serials))
    if variant:
        text.add_text(VARIANT_KEY, variant)
    text.add_itxt("XML:com.adobe.xmp", packet.decode())
    return text


def _fit_xmp(serials: Sequence[str], variant: str) -> bytes:
    spare = _MOST_JPEG_XMP_BYTES - len(build_xmp((), variant))
    sizes = (len(_format_identifier(serial).encode()) for serial in serials)
    fitting = sum(1 for total in itertools.accumulate(sizes) if total <= spare)
    return build_xmp(serials[:fitting], variant)


def _format_identifier(serial: str) -> str:
    return f"<rdf:li>{escape(serial)}</rdf:li>"


def build_xmp(serials: Sequence[str], variant: str) -> bytes:
    """Returns an XMP packet with the source type, the variant, and each serial as dc:identifier."""
    tool = f' xmp:CreatorTool="imagemint, variant {escape(variant)}"' if variant else ""
    identifiers = "".join(map(_format_identifier, serials))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' Iptc4xmpExt:DigitalSourceType="{TRAINED_ALGORITHMIC_MEDIA}"{tool}>'
        f"<dc:identifier><rdf:Bag>{identifiers}</rdf:Bag></dc:identifier>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()
