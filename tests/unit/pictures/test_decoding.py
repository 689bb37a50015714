"""Tests of decoding untrusted pictures, which are decoded like in a browser or refused."""

import io
import random
import struct

import numpy as np
import pytest
from made_sources import draw, make_linear_profile, make_png, to_file
from PIL import Image, ImageCms

from imagemint.pictures import PictureRefused, decode, read_size

MOST = 10_000
RGB = draw(1, 12, 10)
SMOOTH = np.linspace(0, 255, 12 * 10 * 3).astype(np.uint8).reshape(12, 10, 3)


def picture(mode="RGB", pixels=RGB):
    """Returns a picture of Pillow in a mode."""
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_pictures(kind, options, channels):
    """The pixels are those of the file, or their luma."""
    expected = RGB if channels == 3 else np.asarray(picture("L"))[..., np.newaxis]
    content = to_file(picture(), kind, **options)
    assert read_size(content, MOST) == (12, 10)
    assert np.array_equal(decode(content, channels, MOST), expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg(options):
    """A JPEG is decoded as Pillow decodes it."""
    content = to_file(picture(pixels=SMOOTH), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(decode(content, 3, MOST), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied(kind, orientation):
    """The picture is upright, as EXIF specifies."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    marked = np.full((8, 16, 3), 255, np.uint8)
    marked[:4, :4] = 0  # top left
    options = {"quality": 100} if kind == "JPEG" else {}
    pixels = decode(to_file(marked, kind, exif=exif, **options), 1, MOST)[..., 0]
    turned = {1: marked, 2: marked[:, ::-1], 3: marked[::-1, ::-1], 4: marked[::-1]}
    upright = marked.transpose(1, 0, 2)
    turned |= {5: upright, 6: upright[:, ::-1], 7: upright[::-1, ::-1], 8: upright[::-1]}
    expected = turned[orientation][..., 0]
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 12


def test_transparency_over_white():
    """Every kind of transparency is laid over white."""
    rgba = np.dstack([RGB, np.zeros((12, 10), np.uint8)])
    rgba[:6, ..., 3] = 255
    rgba[6, ..., 3] = 128
    for content in (to_file(Image.fromarray(rgba)), to_file(Image.fromarray(rgba), "WEBP")):
        pixels = decode(content, 3, MOST)
        assert (pixels[7:] == 255).all()
    png = decode(to_file(Image.fromarray(rgba)), 3, MOST)
    assert np.array_equal(png[:6], RGB[:6])
    half = (RGB[6].astype(int) + 255) / 2
    assert np.abs(png[6] - half).max() <= 2


def test_palettes():
    """A palette gives its colours; its transparent entry is white."""
    colours = Image.fromarray(SMOOTH).quantize(8)
    expected = np.asarray(colours.convert("RGB"))
    assert np.array_equal(decode(to_file(colours), 3, MOST), expected)
    hidden = np.asarray(colours) == 3
    pixels = decode(to_file(colours, transparency=3), 3, MOST)
    assert hidden.any()
    assert (pixels[hidden] == 255).all()
    assert np.array_equal(pixels[~hidden], expected[~hidden])


def test_gray_with_transparent_level():
    """The transparent level of a gray or RGB PNG becomes white."""
    gray = np.arange(120, dtype=np.uint8).reshape(12, 10)
    pixels = decode(to_file(Image.fromarray(gray), transparency=17), 1, MOST)[..., 0]
    assert pixels[1, 7] == 255
    assert (pixels != gray).sum() == 1
    colour = decode(to_file(Image.fromarray(RGB), transparency=tuple(RGB[2, 3].tolist())), 3, MOST)
    assert (colour[2, 3] == 255).all()


def test_one_bit_pictures():
    """Black and white become 0 and 255."""
    bits = np.asarray(picture("1"))
    assert np.array_equal(decode(to_file(picture("1")), 1, MOST)[..., 0], bits * np.uint8(255))


def test_deep_gray_is_rounded():
    """16-bit levels are rounded to 8 bits."""
    levels = np.array([[0, 128, 129, 257, 40_000, 65_535]], np.uint16)
    pixels = decode(to_file(Image.fromarray(levels)), 1, MOST)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 156, 255]


def test_deep_colours():
    """The upper 8 bits of 16-bit colours are used."""
    data = b"".join(b"\0" + struct.pack(">6H", 0, 257, 65_535, 256, 40_000, 1) for _ in range(2))
    pixels = decode(make_png(2, 2, depth=16, data=data), 3, MOST)
    assert pixels[0].tolist() == [[0, 1, 255], [1, 156, 0]]


def test_cmyk_is_refused():
    """CMYK depends on a printer, so it is refused."""
    with pytest.raises(PictureRefused, match="CMYK; convert the picture to RGB"):
        read_size(to_file(picture("CMYK"), "JPEG"), MOST)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind):
    """An animation is refused, even for a model with frames, which takes single pictures."""
    frames = [picture(pixels=draw(number, 12, 10)) for number in range(3)]
    content = to_file(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(PictureRefused, match="an animation of 3 frames"):
        read_size(content, MOST)


def test_multi_picture_jpeg():
    """The first picture of a multi-picture JPEG is used."""
    content = to_file(picture(), "MPO", save_all=True, append_images=[picture("L")])
    assert decode(content, 3, MOST).shape == (12, 10, 3)


def test_profiles_are_converted():
    """Linear levels become those of sRGB: an eighth of the light is far brighter than level 32."""
    flat = np.full((4, 4, 3), 32, np.uint8)
    content = to_file(flat, icc_profile=make_linear_profile())
    pixels = decode(content, 3, MOST)
    expected = 255 * (1.055 * (32 / 255) ** (1 / 2.4) - 0.055)
    assert np.abs(pixels - expected).max() < 2


def test_srgb_profile_changes_nothing():
    """Pixels with an sRGB profile, or with a profile of another kind, are unchanged."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(to_file(RGB, icc_profile=srgb), 3, MOST), RGB)
    gray = to_file(picture("L"), icc_profile=make_linear_profile())
    assert np.array_equal(decode(gray, 1, MOST)[..., 0], np.asarray(picture("L")))


def test_broken_profile_is_refused():
    """A profile that cannot be read, or is implausibly large, is refused."""
    with pytest.raises(PictureRefused, match="colour profile is not readable"):
        decode(to_file(RGB, icc_profile=b"nonsense" * 40), 3, MOST)
    noise = random.Random(1).randbytes(2**20 + 1)  # noqa: S311 - no secret
    with pytest.raises(PictureRefused):
        decode(to_file(RGB, "WEBP", icc_profile=noise), 3, MOST)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_size_is_checked_by_the_header(kind):
    """A picture with too many pixels is refused before they are decoded."""
    content = to_file(Image.new("RGB", (101, 100)), kind)
    with pytest.raises(PictureRefused, match="101 x 100 pixels; at most 10,000"):
        read_size(content, MOST)
    assert read_size(to_file(Image.new("RGB", (100, 100)), kind), MOST) == (100, 100)


@pytest.mark.parametrize(
    "content",
    [
        make_png(60_000, 60_000),
        make_png(2**31 - 1, 2**31 - 1),
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(8),
        b"RIFF\x1e\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\xff" + bytes(12),
    ],
)
def test_bombs_take_no_memory(content):
    """Files of a few bytes with headers of gigapixels are refused because of their size."""
    with pytest.raises(PictureRefused, match="pixels"):
        read_size(content, 2**24)


def test_lying_header():
    """A header that claims more pixels than the data has is refused when it is decoded."""
    with pytest.raises(PictureRefused, match="damaged"):
        decode(make_png(100, 100, data=b"\0" * 50), 3, MOST)


def test_many_scans_are_refused():
    """A JPEG of thousands of scans would take minutes, so it is refused by their number."""
    content = to_file(picture(), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(PictureRefused, match="scans; at most 64"):
        read_size(content[:-2] + scan * 100 + content[-2:], MOST)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "ICO", "PPM", "PDF", "JPEG2000", "DDS"])
def test_other_formats_are_refused(kind):
    """Only three formats are read, although Pillow can read more."""
    with pytest.raises(PictureRefused, match="not a PNG, JPEG or WEBP"):
        read_size(to_file(picture("RGB"), kind), MOST)


@pytest.mark.parametrize("content", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"])
def test_stumps_are_refused(content):
    """The first bytes of a picture are not a picture."""
    with pytest.raises(PictureRefused):
        read_size(content, MOST)


def test_jpeg_without_a_picture(monkeypatch):
    """A JPEG that ends before its picture is refused alike, whatever Pillow has loaded."""
    monkeypatch.delitem(Image.OPEN, "MPO", raising=False)
    head = to_file(picture(), "JPEG")[:20]
    with pytest.raises(PictureRefused, match="a damaged picture: its header is not readable"):
        decode(head, 3, 1_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_files_are_refused(kind):
    """A truncated file is refused, not filled with gray."""
    content = to_file(picture(pixels=draw(3, 40, 40)), kind)
    for share in (0.2, 0.5, 0.8):
        with pytest.raises(PictureRefused, match="damaged"):
            decode(content[: int(len(content) * share)], 3, MOST)
