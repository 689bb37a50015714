"""Sources for tests of translation, as pixels, files and messages. Imported by name."""

import io

import numpy as np
from PIL import Image

from imagemint.v1 import translation_service_pb2 as pb


def draw(number, height=6, width=8, depth=3):
    """Pixels uint8 [height, width, depth], drawn from a number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, depth), np.uint8)


def to_file(pixels, picture_format="PNG", **options):
    """The file of a picture; `pixels` may be a picture of Pillow."""
    image = pixels
    if isinstance(pixels, np.ndarray):
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    out = io.BytesIO()
    image.save(out, picture_format, **options)
    return out.getvalue()


def raw(pixels):
    """A source message of pixels."""
    height, width, channels = pixels.shape
    source = pb.Source()
    source.raw.pixels = pixels.tobytes()
    source.raw.shape.height, source.raw.shape.width = height, width
    source.raw.shape.channels = channels
    return source


def unpack(translation):
    """The pixels of a raw translation."""
    shape = translation.shape
    flat = np.frombuffer(translation.picture, np.uint8)
    return flat.reshape(shape.height, shape.width, shape.channels)
