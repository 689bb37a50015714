"""Sources for tests of translation, as pixels, files and messages. Imported by name."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from imagemint.v1 import translation_service_pb2 as pb


def draw(number, height=6, width=8, depth=3):
    """Returns pixels uint8 [height, width, depth] for a seed."""
    return np.random.default_rng(number).integers(0, 256, (height, width, depth), np.uint8)


def to_file(pixels, picture_format="PNG", **options):
    """Returns the file of a picture; `pixels` may be a picture of Pillow."""
    image = pixels
    if isinstance(pixels, np.ndarray):
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    out = io.BytesIO()
    image.save(out, picture_format, **options)
    return out.getvalue()


def raw(pixels):
    """Returns a source message of pixels."""
    height, width, channels = pixels.shape
    source = pb.Source()
    source.raw.pixels = pixels.tobytes()
    source.raw.shape.height, source.raw.shape.width = height, width
    source.raw.shape.channels = channels
    return source


def unpack(translation):
    """Returns the pixels of a raw translation."""
    shape = translation.shape
    flat = np.frombuffer(translation.picture, np.uint8)
    return flat.reshape(shape.height, shape.width, shape.channels)


def make_chunk(kind, body):
    """Returns one chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(width, height, depth=8, colour=2, data=b""):
    """Returns a PNG whose header may not match its data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = make_chunk(b"IHDR", header) + make_chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + parts + make_chunk(b"IEND", b"")


def make_linear_profile():
    """Returns an RGB profile with the primaries of sRGB and linear levels."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The three tone curves share one table; a curve without entries is linear.
    count = struct.unpack_from(">I", profile, 128)[0]
    changed = bytearray(profile)
    for number in range(count):
        tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if tag == b"rTRC":
            changed[offset : offset + 16] = b"curv" + struct.pack(">III", 0, 0, 0)
        if tag == b"desc":
            at = profile.find(b"s\0R\0G\0B", offset)
            at = profile.find("sRGB".encode("utf-16-be"), offset) if at < 0 else at
            changed[at : at + 8] = "line".encode("utf-16-be")
    return bytes(changed)
