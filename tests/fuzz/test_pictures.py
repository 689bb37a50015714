"""Tests with damaged pictures: they are decoded within their limit, or refused with a reason."""

import os
import random
import struct

import numpy as np
from made_sources import draw, make_chunk, make_linear_profile, to_file
from PIL import Image, TiffImagePlugin

from imagemint.pictures import PictureRefused, decode, read_size

EXAMPLES = 15 * int(os.environ.get("IMAGEMINT_FUZZ_EXAMPLES", "40"))
MOST = 10_000
RGB = draw(1, 12, 10)
SMOOTH = np.linspace(0, 255, 12 * 10 * 3).astype(np.uint8).reshape(12, 10, 3)


def picture(mode="RGB"):
    """Returns a picture of Pillow in a mode."""
    return Image.fromarray(RGB).convert(mode)


def list_fuzz_seeds():
    """Returns files with many features, as the basis of damaged ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[TiffImagePlugin.IMAGEDESCRIPTION] = "a text"
    profile = make_linear_profile()
    rgba = np.dstack([RGB, RGB[..., :1]])
    return [
        to_file(RGB, exif=exif),
        to_file(RGB, icc_profile=profile),
        to_file(Image.fromarray(rgba)),
        to_file(Image.fromarray(SMOOTH).quantize(8), transparency=3),
        to_file(Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10))),
        to_file(RGB, "JPEG", exif=exif),
        to_file(RGB, "JPEG", progressive=True, icc_profile=profile),
        to_file(picture("L"), "JPEG"),
        to_file(RGB, "WEBP", exif=exif, icc_profile=profile),
        to_file(Image.fromarray(rgba), "WEBP", lossless=True),
        to_file(picture(), "MPO", save_all=True, append_images=[picture("L")]),
        to_file(picture(), save_all=True, append_images=[picture("L").convert("RGB")]),
    ]


def damage(content, dice):
    """Returns a file with some bytes changed, cut, repeated or exchanged."""
    mutated = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(mutated))
        match dice.randrange(5):
            case 0:
                mutated[at] = dice.randrange(256)
            case 1:
                mutated[at] ^= 1 << dice.randrange(8)
            case 2:
                del mutated[at : at + dice.randrange(1, 20)]
            case 3:
                mutated[at:at] = mutated[at : at + dice.randrange(1, 40)]
            case _:
                mutated[at : at + 4] = dice.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff"))
        if not mutated:
            return b""
    if mutated[:4] == b"\x89PNG" and dice.random() < 0.8:
        return repair_checksums(bytes(mutated))
    return bytes(mutated)


def repair_checksums(content):
    """Returns a PNG with correct checksums of its chunks, so that they do not reveal the damage."""
    parts, at = [content[:8]], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        parts.append(make_chunk(kind, body))
        at += 12 + length
    return b"".join(parts)


def test_damaged_files():
    """Any bytes are decoded as a picture within its limit, or refused with a reason."""
    dice = random.Random(16)  # noqa: S311 - chooses what to test
    seeds = list_fuzz_seeds()
    decoded = refused = 0
    for _ in range(EXAMPLES):
        content = damage(dice.choice(seeds), dice)
        channels = dice.choice((1, 3))
        try:
            height, width = read_size(content, MOST)
            pixels = decode(content, channels, MOST)
        except PictureRefused:
            refused += 1
            continue
        assert pixels.dtype == np.uint8
        assert sorted(pixels.shape[:2]) == sorted((height, width))
        assert pixels.shape[2] == channels
        assert pixels.size <= 3 * MOST
        decoded += 1
    assert min(decoded, refused) > 50
