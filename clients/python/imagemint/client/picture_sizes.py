"""Reads the number of pixels of an encoded picture from its header, without Pillow."""

import struct

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
# Start of frame: all of 0xC0 to 0xCF but tables (0xC4), extensions (0xC8) and conditions (0xCC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FILL = 0xFF


def count_pixels(content: bytes) -> int:
    """Returns the pixels of a PNG, JPEG or WebP; 0 if its header is not readable.

    Args:
        content: the file.
    """
    try:
        if content.startswith(_PNG_START):
            width, height = struct.unpack_from(">II", content, 16)
        elif content.startswith(_JPEG_START):
            height, width = _read_jpeg_size(content)
        elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            height, width = _read_webp_size(content)
        else:
            return 0
    except (struct.error, IndexError):
        return 0
    return int(height * width)


def _read_jpeg_size(content: bytes) -> tuple[int, int]:
    """Returns height and width of a JPEG from its first frame (ITU-T T.81, annex B)."""
    at = len(_JPEG_START)
    while True:
        while content[at + 1] == _FILL:
            at += 1
        if content[at + 1] in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return height, width
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]


def _read_webp_size(content: bytes) -> tuple[int, int]:
    """Returns height and width of a WebP from its first chunk.

    The format is described at https://developers.google.com/speed/webp/docs/riff_container.
    """
    kind, body = content[12:16], content[20:30]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(body[4:7], "little")
        return 1 + int.from_bytes(body[7:10], "little"), width
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, height = struct.unpack_from("<HH", body, 6)
    return height & 0x3FFF, width & 0x3FFF
