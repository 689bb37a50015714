"""Encoded pictures that state their origin: what the server sends, and what data sets hold."""

from imagemint.pictures.animation import AnimationFormat, encode_animation
from imagemint.pictures.encoding import (
    DEFAULT_QUALITY,
    SERIAL_KEY,
    TRAINED_ALGORITHMIC_MEDIA,
    VARIANT_KEY,
    PictureFormat,
    encode,
)

__all__ = [
    "DEFAULT_QUALITY",
    "SERIAL_KEY",
    "TRAINED_ALGORITHMIC_MEDIA",
    "VARIANT_KEY",
    "AnimationFormat",
    "PictureFormat",
    "encode",
    "encode_animation",
]
