"""Decodes untrusted PNG, JPEG and WebP pictures within limits.

The size of a picture is read from its header and checked before memory is taken for its pixels.
Each picture is either decoded to the pixels that a browser would show, or refused with the reason:

- the orientation of EXIF is applied, and an embedded RGB or gray profile is converted to sRGB;
- transparency is laid over white, and 16-bit levels are rounded to 8 bits;
- animations, CMYK, and JPEGs with very many scans are refused. Of a multi-picture JPEG, which some
  cameras write, the first picture is taken.

Decode on a separate thread, because a picture of the largest size can take a second.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

DECODING_BYTES_PER_PIXEL = 20
"""Most memory that `decode` takes while it runs, its result included.

Measured for each kind of picture: up to 18.2, for WebP, and 14.1 for others; see
docs/notes/serving-performance.md. Pillow has four bytes for a pixel of RGB.
"""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_START_OF_SCAN = b"\xff\xda"
# Encoders write about ten scans. Each one passes over all pixels, and may have only a few bytes.
_MOST_SCANS = 64
_MOST_PROFILE_BYTES = 2**20
_CHUNK = struct.Struct("<4sI")
_WHITE = 255
_LEVELS_16_BIT = 65_535
# The modes of Pillow that are converted; all others are refused.
_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"}) | _DEEP_MODES


class PictureRefused(ValueError):  # noqa: N818 - the name states the condition
    """A picture cannot be decoded, or exceeds a limit; the message says why."""


def read_size(content: bytes, most_pixels: int) -> tuple[int, int]:
    """Returns height and width of the header, before the orientation is applied.

    Args:
        content: the file of a picture.
        most_pixels: refuse more pixels than this.

    Raises:
        PictureRefused: the picture is refused; see above.
    """
    with _open(content, most_pixels) as image:
        return image.height, image.width


def decode(content: bytes, channels: int, most_pixels: int) -> npt.NDArray[np.uint8]:
    """Returns the pixels of a picture, uint8 [height, width, channels], which are read-only.

    Args:
        content: the file of a picture.
        channels: 1 for gray (ITU-R 601 luma), 3 for RGB.
        most_pixels: refuse more pixels than this.

    Raises:
        PictureRefused: the picture is refused; see above.
    """
    with _open(content, most_pixels) as image:
        flat = _attempt(lambda: _flatten(image))
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(flat if flat.mode == mode else flat.convert(mode))
    return pixels[..., np.newaxis] if channels == 1 else pixels


def _open(content: bytes, most_pixels: int) -> Image.Image:
    """Returns a picture of which only the header was read."""
    if content.startswith(_PNG_START):
        formats = ["PNG"]
    elif content.startswith(_JPEG_START):
        formats = ["JPEG"]  # also opens those of several pictures
        # Inside of compressed data, 0xFF is followed by 0, so every match begins a scan, of this
        # picture or of a thumbnail.
        if (scans := content.count(_START_OF_SCAN)) > _MOST_SCANS:
            raise PictureRefused(f"a JPEG of {scans} scans; at most {_MOST_SCANS} are decoded")
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        formats = ["WEBP"]
        # Pillow takes memory for the pixels when it opens a WebP.
        _check_size(*_read_webp_size(content), most_pixels)
    else:
        raise PictureRefused("not a PNG, JPEG or WEBP")
    try:
        image = _attempt(lambda: Image.open(io.BytesIO(content), formats=formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureRefused(f"more than {most_pixels:,} pixels") from None
    _check_size(image.height, image.width, most_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise PictureRefused(f"an animation of {frames} frames; send single pictures")
    if image.mode not in _MODES:
        raise PictureRefused(f"colours of the kind {image.mode}; convert the picture to RGB")
    return image


def _check_size(height: int, width: int, most_pixels: int) -> None:
    if height * width > most_pixels:
        raise PictureRefused(f"{width} x {height} pixels; at most {most_pixels:,} are decoded")


def _attempt(read: Callable[[], Image.Image]) -> Image.Image:
    """Returns what `read` returns.

    Raises:
        PictureRefused: the file is damaged. Pillow raises exceptions of many kinds then.
    """
    try:
        return read()
    except (PictureRefused, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except MemoryError:
        raise PictureRefused("not enough memory to decode it") from None
    except Exception as error:
        raise PictureRefused(f"a damaged picture: {_get_first_line(error)}") from error


def _get_first_line(error: Exception) -> str:
    # Pillow's message names the buffer with its address, which differs each time.
    if isinstance(error, UnidentifiedImageError):
        return "its header is not readable"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_webp_size(content: bytes) -> tuple[int, int]:
    """Returns height and width of a WebP from its first chunk.

    The format is described at https://developers.google.com/speed/webp/docs/riff_container.
    """
    try:
        kind, _ = _CHUNK.unpack_from(content, 12)
        body = content[20:30]
        if kind == b"VP8X":
            width = 1 + int.from_bytes(body[4:7], "little")
            return 1 + int.from_bytes(body[7:10], "little"), width
        if kind == b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            return height & 0x3FFF, width & 0x3FFF
    except struct.error:
        pass
    raise PictureRefused("a damaged picture: its header is not readable")


def _flatten(image: Image.Image) -> Image.Image:
    """Returns a picture in mode L or RGB: upright, in sRGB, over white.

    It takes few copies, because a picture may be as large as the limits permit. The given one is
    changed or closed.
    """
    image.load()
    # A chunk behind the pixels can hold a profile too.
    profile = image.info.get("icc_profile")
    is_deep = image.mode in _DEEP_MODES
    if is_deep and "transparency" in image.info:
        raise PictureRefused("16-bit gray with transparency; convert the picture to 8 bits")
    ImageOps.exif_transpose(image, in_place=True)
    if is_deep:
        levels = np.asarray(image).astype(np.uint32)
        levels *= _WHITE
        levels += _LEVELS_16_BIT // 2
        levels //= _LEVELS_16_BIT
        image = _replace(image, Image.fromarray(levels.astype(np.uint8)))
        del levels
    alpha = None
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = _replace(image, image.convert("RGBA"))
        alpha = image.getchannel("A")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    plain = image if image.mode == mode else _replace(image, image.convert(mode))
    if profile:
        plain = _convert_to_srgb(plain, profile)
    if alpha is not None:
        white = Image.new(plain.mode, plain.size, "white")
        white.paste(plain, mask=alpha)
        return white
    return plain


def _replace(old: Image.Image, new: Image.Image) -> Image.Image:
    """Releases the pixels of a picture and returns another one."""
    old.close()
    return new


def _convert_to_srgb(image: Image.Image, content: bytes) -> Image.Image:
    if len(content) > _MOST_PROFILE_BYTES:
        raise PictureRefused(f"a colour profile of {len(content):,} bytes")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image
        if space != ("GRAY" if image.mode == "L" else "RGB"):
            return image  # browsers ignore a profile for colours of another kind
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise PictureRefused("its colour profile is not readable; convert it to sRGB") from error
    assert converted is not None  # noqa: S101 - it is None only if it converts in place
    return converted
