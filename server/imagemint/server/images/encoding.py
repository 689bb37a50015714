"""Pictures for people: PNG, JPEG and WebP that say what they are.

Each encoded picture carries its serial number and the IPTC digital source type
``trainedAlgorithmicMedia`` in an XMP packet, which names the variant that made it as well; PNG
carries serial and variant in text chunks besides.
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
# XMP of a JPEG lives in one APP1 segment: 64 KB less its length field and its name space.
_MOST_JPEG_XMP_BYTES = 65_533 - len(b"http://ns.adobe.com/xap/1.0/\0")


class PictureFormat(enum.StrEnum):
    """Encoding of a picture; the value names it in metrics and to Pillow."""

    RAW = "raw"
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


def encode(
    pixels: npt.NDArray[np.uint8],
    serials: Sequence[str],
    picture_format: PictureFormat,
    quality: int = DEFAULT_QUALITY,
    *,
    variant: str = "",
) -> bytes:
    """Returns one picture.

    Args:
        pixels: uint8 [height, width, channels], 1 channel gray, 3 RGB.
        serials: serial numbers of the images in it, in order; empty for explicit latents. A JPEG
            has room for some 700, and carries the first that fit.
        picture_format: RAW gives the bare pixels and says nothing of itself.
        quality: 1 to 100, of JPEG and WEBP; WEBP at 100 is lossless.
        variant: of the model, without which a serial stands for pixels within a tolerance; empty
            for a model that is not told.
    """
    if picture_format is PictureFormat.RAW:
        return pixels.tobytes()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    out = io.BytesIO()
    packet = _build_xmp(serials, variant)
    match picture_format:
        case PictureFormat.PNG:
            image.save(out, "PNG", pnginfo=_build_png_text(serials, variant, packet))
        case PictureFormat.JPEG:
            image.save(out, "JPEG", quality=quality, xmp=_fit_xmp(serials, variant))
        case PictureFormat.WEBP:
            lossless = quality == _LOSSLESS_QUALITY
            image.convert("RGB").save(out, "WEBP", quality=quality, lossless=lossless, xmp=packet)
    return out.getvalue()


def _build_png_text(serials: Sequence[str], variant: str, packet: bytes) -> PngInfo:
    text = PngInfo()
    if serials:
        text.add_text(SERIAL_KEY, "\n".join(serials))
    if variant:
        text.add_text(VARIANT_KEY, variant)
    text.add_itxt("XML:com.adobe.xmp", packet.decode())
    return text


def _fit_xmp(serials: Sequence[str], variant: str) -> bytes:
    spare = _MOST_JPEG_XMP_BYTES - len(_build_xmp((), variant))
    sizes = (len(_format_identifier(serial).encode()) for serial in serials)
    fitting = sum(1 for total in itertools.accumulate(sizes) if total <= spare)
    return _build_xmp(serials[:fitting], variant)


def _format_identifier(serial: str) -> str:
    return f"<rdf:li>{escape(serial)}</rdf:li>"


def _build_xmp(serials: Sequence[str], variant: str) -> bytes:
    """Returns an XMP packet: digital source type, variant, and each serial as dc:identifier."""
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
