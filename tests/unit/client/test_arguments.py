"""Tests of imagemint.client.arguments: what a value of a wrong type raises."""

import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from imagemint.client import (
    Caption,
    Client,
    Cycle,
    Filter,
    InvalidRequest,
    PerImage,
    Serial,
    Source,
    Weights,
)
from imagemint.client.arguments import (
    INT32_MAX,
    describe,
    parse_flag,
    parse_items,
    parse_number,
    parse_text,
    parse_whole_number,
)
from imagemint.client.translation import make_source_message

HUGE = 10**400
FLAT = np.zeros(4, np.uint8)


def _cut_png():
    """Returns the first half of a PNG."""
    file = io.BytesIO()
    Image.effect_noise((16, 16), 64).save(file, "PNG")
    return file.getvalue()[: file.tell() // 2]


CUT = _cut_png()


@pytest.fixture
def blocking(address):
    """A client of `mint`."""
    with Client(address) as opened:
        yield opened


@pytest.mark.parametrize(
    ("parse", "value", "expected"),
    [
        (parse_text, "mnist", "mnist"),
        (parse_text, np.str_("mnist"), "mnist"),
        (parse_flag, True, True),
        (parse_flag, np.False_, False),
        (parse_whole_number, 7, 7),
        (parse_whole_number, np.uint8(7), 7),
        (parse_whole_number, np.array(7), 7),
        (parse_whole_number, INT32_MAX, INT32_MAX),
        (parse_number, 1, 1.0),
        (parse_number, np.float32(0.5), 0.5),
        (parse_number, np.array(0.5), 0.5),
        (parse_number, Decimal("0.7"), 0.7),
    ],
)
def test_value_is_converted(parse, value, expected):
    """Values of Python, of NumPy and of Decimal become plain ones."""
    found = parse("name", value)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("parse", "wrong"),
    [
        (parse_text, [None, 1, b"mnist", Path("mnist"), ["mnist"], "\ud800"]),
        (parse_flag, [None, 0, 1, "True", np.array(True)]),
        (parse_whole_number, [None, True, np.True_, 1.0, "1", b"1", [1], np.array([1]), HUGE, -1]),
        (parse_whole_number, [INT32_MAX + 1, np.array(1.5), int]),
        (parse_number, [None, True, np.True_, "0.7", b"1", [0.7], np.array([0.7]), 1j, HUGE]),
        (parse_number, [np.str_("0.7"), object()]),
    ],
)
def test_other_value_is_refused(parse, wrong):
    """The error names the argument."""
    for value in wrong:
        with pytest.raises(InvalidRequest, match=r"^name: ") as caught:
            parse("name", value)
        assert caught.value.violations[0].field == "name"


@pytest.mark.parametrize("wrong", [None, 3, "07", b"07", int])
def test_items_of_no_sequence_are_refused(wrong):
    """A text is one value, although Python iterates over it."""
    with pytest.raises(InvalidRequest, match=r"^name: .* is not a sequence of weights$"):
        parse_items("name", wrong, "weights")


def test_description_is_one_short_line():
    """A message does not repeat a whole file or array."""
    for value in ("x" * 10_000, HUGE, 10**5000, [10**5000], np.zeros((99, 99)), b"\0" * 999):
        assert len(describe(value)) < 100
        assert len(describe(value).splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("model", {"model": 7}),
        ("truncation", {"truncation": "0.7"}),
        ("variant", {"variant": 8}),
        ("version", {"version": True}),
        ("seed", {"seed": True}),
        ("condition", {"condition": [3]}),
        ("condition", {"condition": np.array([3])}),
        ("condition", {"condition": Caption(None)}),
        ("condition", {"condition": PerImage(3)}),
        ("condition", {"condition": PerImage([True])}),
        ("condition", {"condition": Cycle("01")}),
        ("condition", {"condition": Weights("012")}),
        ("condition", {"condition": Weights([0.5, "a"])}),
        ("latents", {"latents": [[1], [2, 3]]}),
        ("latents", {"latents": "0"}),
        ("latents", {"latents": [[1j]]}),
        ("image_filter", {"image_filter": {"max_tries": 3}}),
        ("min_class_confidence", {"image_filter": Filter(min_class_confidence="high")}),
        ("rejection_sampling", {"image_filter": Filter(rejection_sampling="yes")}),
        ("priority", {"priority": ["high"]}),
        ("timeout_s", {"timeout_s": "1"}),
        ("timeout_s", {"timeout_s": HUGE}),
    ],
)
def test_generate_names_the_argument(blocking, mint, field, arguments):
    """A value of a wrong type raises InvalidRequest with the argument, before any call."""
    with pytest.raises(InvalidRequest, match=f"^{field}: ") as caught:
        blocking.generate(**{"model": "tiny"} | arguments)
    assert caught.value.violations[0].field == field
    assert not mint.requests


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("name", lambda client: client.model(7)),
        ("format", lambda client: client.encoded("tiny", format=["png"])),
        ("bounces", lambda client: client.animate(["a", "b"], bounces="yes")),
        ("serial", lambda client: client.mint(3)),
        ("serial", lambda client: client.mint([3])),
        ("serials", lambda client: client.interpolate(None)),
        ("serials[1]", lambda client: client.interpolate(["a", 3])),
        ("fit", lambda client: client.translate("tiny", [b""], fit=["crop"])),
        ("sources", lambda client: client.translate("tiny", "face.png")),
        ("sources", lambda client: client.translate("tiny", b"PNG")),
        ("sources", lambda client: client.translate("tiny", Path("face.png"))),
        ("sources", lambda client: client.translate("tiny", None)),
        ("sources", lambda client: client.translate("tiny", np.zeros((4, 4), np.uint8))),
        ("sources", lambda client: client.translate("tiny", Image.new("L", (4, 4)))),
        ("sources", lambda client: client.translate_many("tiny", "face.png")),
        ("sources", lambda client: client.translate_stream("tiny", Source([b"PNG"]))),
        ("sources[1]", lambda client: client.translate("tiny", [b"", None])),
        ("sources[0]", lambda client: client.translate("tiny", [[[1], [2, 3]]])),
        ("sources", lambda client: client.translate("tiny", {"face.png": b""})),
        ("sources", lambda client: client.translate("tiny", np.zeros((4, 4, 3), np.uint8))),
        ("sources[0]", lambda client: client.translate("tiny", [Image.new("CMYK", (4, 4))])),
        ("sources[0]", lambda client: client.translate("tiny", [Image.open(io.BytesIO(CUT))])),
        ("sources[0]", lambda client: client.translate("tiny", [["a.png", "b.png"]])),
        ("sources[0].frames", lambda client: client.translate("tiny", [Source("face.png")])),
        ("sources[0].mask", lambda client: client.translate("tiny", [Source([b""], mask=FLAT)])),
        ("sources[0].frames[0]", lambda client: client.translate("tiny", [Source([3])])),
        ("sources[0].mask", lambda client: client.translate("tiny", [Source([b""], mask=3)])),
    ],
)
def test_call_names_the_argument(blocking, mint, field, call):
    """So do all other calls; those that stream raise at once, not with the first item."""
    with pytest.raises(InvalidRequest) as caught:
        call(blocking)
    assert caught.value.violations[0].field == field
    assert not mint.requests


def test_unknown_keyword_is_named(blocking):
    """A keyword that no method has raises TypeError with those that there are."""
    with pytest.raises(TypeError, match=r"^'class_id' is no .* seed, first_index, condition, "):
        blocking.generate("tiny", class_id=3)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_like_source_is_a_file(kind):
    """A bytearray and a flat memoryview are the content of a file, as bytes are."""
    message = make_source_message(kind(b"PNG"), "sources[0]")
    assert list(message.encoded.pictures) == [b"PNG"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pillow_source_is_its_file(mode):
    """A Pillow image is sent with its depth, transparency and colour profile."""
    image = Image.new(mode, (2, 1))
    image.info["icc_profile"] = b"profile"
    message = make_source_message(image, "sources[0]")
    (content,) = message.encoded.pictures
    sent = Image.open(io.BytesIO(content))
    assert (sent.mode, sent.size, sent.tobytes()) == (mode, (2, 1), image.tobytes())
    assert sent.info["icc_profile"] == b"profile"


def test_pillow_source_is_upright():
    """The orientation of EXIF is applied, as the server applies it to a file."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turned by 90 degrees
    Image.new("RGB", (2, 1)).save(file, "PNG", exif=exif)
    message = make_source_message(Image.open(file), "sources[0]")
    sent = Image.open(io.BytesIO(message.encoded.pictures[0]))
    assert sent.size == (1, 2)
    assert ExifTags.Base.Orientation not in sent.getexif()


def test_pixels_are_pictures_of_a_source():
    """Frames and mask may be arrays or Pillow images; a mask may be of truth values."""
    colours = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    mask = np.array([[True, False]])
    frames = [colours, Image.fromarray(colours), colours[..., :1]]
    encoded = make_source_message(Source(frames, mask=mask), "sources[0]").encoded
    of_list = make_source_message(Source(frames, mask=mask.tolist()), "sources[0]").encoded
    assert of_list == encoded
    sent = [np.asarray(Image.open(io.BytesIO(each))) for each in (*encoded.pictures, encoded.mask)]
    expected = [colours, colours, colours[..., 0], mask * np.uint8(255)]
    assert all(map(np.array_equal, sent, expected))


def test_batch_is_no_source(blocking):
    """The error names the attribute that has the pixels, although a batch is a sequence."""
    (batch,) = [*blocking.stream("tiny", 2, seed=1)][:1]
    for sources in (batch, [batch[0]]):
        with pytest.raises(InvalidRequest, match=r"sources\[0\]: ImageBatch .*; use its image$"):
            blocking.translate("tiny", sources)


def test_parsed_serials_are_sent_as_text(blocking, mint):
    """A Serial may stand wherever its text may."""
    batch = blocking.mint(Serial.parse("tiny@3/5/1?class=1"))
    assert batch.serials == ("tiny@3/5/1?class=1",)
    assert mint.requests[-1].images.seed == 5
