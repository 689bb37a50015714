"""Encodes a sequence of images as one animated picture that states its origin."""

import enum
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagemint.pictures.encoding import (
    DEFAULT_QUALITY,
    TRAINED_ALGORITHMIC_MEDIA,
    build_png_text,
    build_xmp,
)

_LOSSLESS_QUALITY = 100
_FOR_EVER = 0


class AnimationFormat(enum.StrEnum):
    """Encoding of an animated picture. The value is its name in metrics."""

    WEBP = "webp"
    GIF = "gif"
    APNG = "apng"


def encode_animation(
    frames: npt.NDArray[np.uint8],
    serials: Sequence[str],
    animation_format: AnimationFormat,
    *,
    frame_ms: int,
    quality: int = DEFAULT_QUALITY,
    bounces: bool = False,
    variant: str = "",
) -> bytes:
    """Returns an animated picture that repeats for ever.

    Args:
        frames: uint8 [N, height, width, channels]; 1 channel is gray, 3 are RGB; N 1 or more.
        serials: serial numbers for the metadata; a GIF has them in a comment.
        animation_format: the encoding.
        frame_ms: time of one frame in milliseconds, 10 or more. A GIF has hundredths of a second.
        quality: 1 to 100, for WebP; lossless at 100.
        bounces: whether the frames are shown forwards and then backwards.
        variant: name of the variant that made the images; empty to leave it out.
    """
    shown = np.concatenate([frames, frames[-2:0:-1]]) if bounces else frames
    first, *rest = [
        Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in shown
    ]
    out = io.BytesIO()
    common = {"save_all": True, "append_images": rest, "duration": frame_ms, "loop": _FOR_EVER}
    match animation_format:
        case AnimationFormat.WEBP:
            packet, lossless = build_xmp(serials, variant), quality == _LOSSLESS_QUALITY
            first.save(out, "WEBP", xmp=packet, quality=quality, lossless=lossless, **common)
        case AnimationFormat.GIF:
            comment = "\n".join([*serials, TRAINED_ALGORITHMIC_MEDIA])
            first.save(out, "GIF", comment=comment, **common)
        case AnimationFormat.APNG:
            text = build_png_text(serials, variant, build_xmp(serials, variant))
            first.save(out, "PNG", pnginfo=text, **common)
    return out.getvalue()
