"""Measures the memory that decoding a picture takes at most, in bytes per pixel.

Each kind of picture is decoded in a new process: the memory that an earlier one has left would hide
part of it. Linux only.

    python benchmarks/decoding_memory.py
"""

import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from imagemint.pictures import decode

_SIDE = 4_096
_ORIENTATION = 0x0112
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "RGB PNG": ("RGB", {"format": "PNG"}),
    "RGBA PNG": ("RGBA", {"format": "PNG"}),
    "gray PNG": ("L", {"format": "PNG"}),
    "gray PNG with alpha": ("LA", {"format": "PNG"}),
    "palette PNG with a transparent colour": ("P", {"format": "PNG", "transparency": 3}),
    "16-bit gray PNG": ("I;16", {"format": "PNG"}),
    "JPEG": ("RGB", {"format": "JPEG"}),
    "progressive JPEG, turned, with a profile": (
        "RGB",
        {"format": "JPEG", "progressive": True, "subsampling": 0, "profile": True, "turned": True},
    ),
    "WebP": ("RGB", {"format": "WEBP"}),
    "WebP with alpha, turned, with a profile": (
        "RGBA",
        {"format": "WEBP", "lossless": True, "profile": True, "turned": True},
    ),
}


def _make_file(kind: str) -> bytes:
    mode, options = _KINDS[kind]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        picture = picture.convert("RGB").quantize(16)
    else:
        picture = picture.convert(mode)
    arguments = dict(options)
    if arguments.pop("profile", False):
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        # One that is named sRGB would not be converted.
        arguments["icc_profile"] = srgb.replace(
            "sRGB".encode("utf-16-be"), "RGB1".encode("utf-16-be")
        )
    if arguments.pop("turned", False):
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        arguments["exif"] = exif
    file = io.BytesIO()
    picture.save(file, **arguments)
    return file.getvalue()


def _read_status(name: str) -> int:
    """Returns a value of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def _measure(content: bytes, channels: int) -> float:
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    decode(small.getvalue(), channels, _SIDE**2)  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present memory again
    before = _read_status("VmRSS")
    decode(content, channels, _SIDE**2)
    return (_read_status("VmHWM") - before) / _SIDE**2


def main() -> None:
    """Prints a table."""
    print("| file of 4096x4096 pixels | to gray | to RGB |\n|---|---:|---:|")
    spawn = multiprocessing.get_context("spawn")
    for kind in _KINDS:
        content = _make_file(kind)
        found = []
        for channels in (1, 3):
            with spawn.Pool(1) as pool:
                found.append(pool.apply(_measure, (content, channels)))
        print(f"| {kind} | {found[0]:.1f} | {found[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
