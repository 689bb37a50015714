"""Tests of imagemint.client.picture_sizes, and of the messages that are cut by it."""

import numpy as np
import pytest
from made_sources import draw, make_png, to_file

from imagemint.client.picture_sizes import count_pixels
from imagemint.client.translation import Source, cut_into_messages


@pytest.mark.parametrize(
    ("picture_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": b"\xff\xc0" * 9}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    ],
)
def test_pixels_of_each_format(picture_format, options):
    """The header tells the size, and a header that is cut or unknown tells nothing."""
    file = to_file(draw(1, 70, 301), picture_format, **options)
    assert count_pixels(file) == 70 * 301
    for stop in range(16):
        assert count_pixels(file[:stop]) == 0
    assert count_pixels(b"GIF89a" + file) == 0


def test_large_pictures_have_messages_of_their_own():
    """The server limits the pixels of a request, however small its files are."""
    small, large = make_png(1_000, 1_000), make_png(3_000, 3_000)
    cut = cut_into_messages([small] * 5 + [large] * 2 + [small])
    assert [len(each) for each in cut] == [4, 1, 1, 1, 1]
    sequence = Source([small] * 3, mask=small)
    assert [len(message) for message in cut_into_messages([sequence] * 2)] == [
        1,
        1,
    ]
    raw = np.zeros((8, 8, 3), np.uint8)
    assert [len(message) for message in cut_into_messages([raw] * 10)] == [8, 2]
