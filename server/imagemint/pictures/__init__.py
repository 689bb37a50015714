"""Encodes pictures with their origin, and decodes untrusted pictures."""

from imagemint.pictures.animation import AnimationFormat, encode_animation
from imagemint.pictures.decoding import (
    DECODING_BYTES_PER_PIXEL,
    PictureRefused,
    decode,
    read_size,
)
from imagemint.pictures.encoding import (
    DEFAULT_QUALITY,
    LARGEST_SIDE,
    SERIAL_KEY,
    TRAINED_ALGORITHMIC_MEDIA,
    VARIANT_KEY,
    PictureFormat,
    encode,
)

__all__ = [
    "DECODING_BYTES_PER_PIXEL",
    "DEFAULT_QUALITY",
    "LARGEST_SIDE",
    "SERIAL_KEY",
    "TRAINED_ALGORITHMIC_MEDIA",
    "VARIANT_KEY",
    "AnimationFormat",
    "PictureFormat",
    "PictureRefused",
    "decode",
    "encode",
    "encode_animation",
    "read_size",
]
