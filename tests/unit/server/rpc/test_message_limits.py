"""Tests of the limits of request messages, which are checked before parsing."""

import numpy as np
import pytest

from imagemint.engine.errors import InvalidRequest, Violation
from imagemint.open_inference import grpc_service_pb2
from imagemint.server.rpc.message_limits import (
    MOST_FIELDS,
    MOST_NUMBERS,
    check_contents,
    make_reader,
)
from imagemint.v1 import generation_service_pb2, image_pb2, translation_service_pb2

INFER = grpc_service_pb2.ModelInferRequest
STREAM = generation_service_pb2.StreamGenerateRequest
TRANSLATE = translation_service_pb2.TranslateRequest
MANY = 700_000
FILE = {"encoded": {"pictures": [bytes(20)]}}
PIXELS = {"raw": {"pixels": bytes(20), "shape": {"height": 4, "width": 5, "channels": 1}}}


def encode_field(number, content):
    """Returns a field of bytes, text, a message or packed numbers."""
    length, size = len(content), bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


BOMBS = {
    "inputs": (INFER, b"\x2a\x00" * MANY),
    "outputs": (INFER, b"\x32\x00" * MANY),
    "parameters": (INFER, b"\x22\x00" * MANY),
    "raw contents": (INFER, b"\x3a\x00" * MANY),
    "parameters of an input": (INFER, encode_field(5, b"\x22\x00" * MANY)),
    "shape, not packed": (INFER, encode_field(5, b"\x18\x01" * MANY)),
    "elements of bytes": (INFER, encode_field(5, encode_field(5, b"\x42\x00" * MANY))),
    "shape": (INFER, encode_field(5, encode_field(3, b"\x01" * MANY))),
    "unknown fields": (INFER, b"\x78\x00" * MANY),
    "groups": (INFER, b"\x7b\x7c" * MANY),
    "the same field": (STREAM, b"\x0a\x00" * MANY),
    "cycle": (STREAM, encode_field(1, encode_field(10, encode_field(1, b"\x01" * MANY)))),
    "cycle in parts": (
        STREAM,
        encode_field(1, encode_field(10, encode_field(1, b"\x01" * 1_000) * 700)),
    ),
    "classes": (STREAM, encode_field(1, encode_field(9, encode_field(1, b"\x80\x01" * MANY)))),
    "behind a good field": (
        INFER,
        encode_field(1, b"tiny") + encode_field(7, bytes(4_000)) + b"\x2a\x00" * MANY,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_oversized_message_is_refused_unparsed(name):
    """Parts are counted at any depth, and only up to the limit."""
    kind, content = BOMBS[name]
    read = make_reader("/none/none", kind.FromString)
    assert isinstance(read(content), kind)  # a valid message in itself
    with pytest.raises(InvalidRequest, match="more than"):
        check_contents(content, kind.DESCRIPTOR)


def test_limits_are_inclusive():
    """A message with as many fields or bytes as the limit is accepted, and one more is refused."""
    field = b"\x32\x00"
    check_contents(field * MOST_FIELDS, INFER.DESCRIPTOR)
    with pytest.raises(InvalidRequest, match="more than"):
        check_contents(field * (MOST_FIELDS + 1), INFER.DESCRIPTOR)
    read = make_reader("/none/none", INFER.FromString, most_bytes=6)
    assert len(read(field * 3).outputs) == 3
    with pytest.raises(InvalidRequest, match="it has 8 bytes, more than 6"):
        read(field * 4)


def test_reader_checks_before_it_parses():
    """Every method with a known schema is checked. The parser refuses malformed bytes."""
    read = make_reader(
        "/inference.GRPCInferenceService/ModelInfer", lambda _: pytest.fail("parsed")
    )
    with pytest.raises(InvalidRequest, match=f"more than {MOST_FIELDS} fields"):
        read(BOMBS["inputs"][1])
    read = make_reader("/inference.GRPCInferenceService/ModelInfer", INFER.FromString)
    for content in (b"\xff" * 20, b"\xff" * 20_000, b"\x2a\x7f" + bytes(9_000)):
        with pytest.raises(InvalidRequest, match="not a message of this type"):
            read(content)


@pytest.mark.parametrize(
    ("source", "count", "given"),
    [
        (FILE, 683, "683"),
        (PIXELS, 293, "293"),
        (FILE, 5_000, "2047 or more"),
    ],
)
def test_number_of_sources_is_named(source, count, given):
    """The error of a list with many elements says how many there are, and that fewer help."""
    request = TRANSLATE(images={"model": "m"}, sources=[source] * count)
    read = make_reader("/imagemint.v1.TranslationService/Translate", TRANSLATE.FromString)
    with pytest.raises(InvalidRequest) as caught:
        read(request.SerializeToString())
    why = f"{given} sources hold more than {MOST_FIELDS} fields; send fewer in a message"
    assert caught.value.violations == (Violation("sources", why),)


def test_large_message_with_few_parts_is_accepted():
    """Latents, raw elements and the largest allowed number of classes are accepted."""
    images = {"count": 1, "model": "m" * 10_000, "latents": {"values": [0.5] * 400_000}}
    infer = INFER(raw_input_contents=[bytes(2_000_000)] * 2)
    tensor = infer.inputs.add(name="z", datatype="FP32", shape=[1, 8])
    tensor.contents.fp32_contents.extend([0.5] * 300_000)
    classes = image_pb2.ClassPerImage(class_ids=np.full(MOST_NUMBERS, 1_000))
    for method, message in (
        ("imagemint.v1.GenerationService/StreamGenerate", STREAM(images=images)),
        (
            "imagemint.v1.GenerationService/StreamGenerate",
            STREAM(images={"class_per_image": classes}),
        ),
        ("inference.GRPCInferenceService/ModelInfer", infer),
    ):
        read = make_reader(f"/{method}", type(message).FromString)
        assert read(message.SerializeToString()) == message
