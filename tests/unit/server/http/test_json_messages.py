"""Tests of imagemint.server.http.json_messages."""

import json

import pytest

from imagemint.engine.errors import InvalidRequest
from imagemint.server.http import json_messages
from imagemint.server.http.json_messages import parse_json, spell_json_path
from imagemint.server.rpc.message_limits import MOST_FIELDS, MOST_NUMBERS
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import image_pb2, translation_service_pb2


def check_fault(body, kind, field, why):
    """Checks that a body is refused with one violation, of this field and for this reason."""
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body.encode(), kind)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert why in violation.description
    assert "Failed to parse" not in violation.description


@pytest.mark.parametrize(
    ("body", "field", "why"),
    [
        ('{"images": {"clasId": 7}}', "images.clasId", "no such field; did you mean 'classId'?"),
        ('{"colour": 1}', "colour", "no such field"),
        ('{"images": {"classPerImage": {"ids": []}}}', "images.classPerImage.ids", "no such field"),
        ('{"images": {"seed": "1", "seed": "2"}}', "body", "'seed' is there more than once"),
        ('{"images": {"seed": -1}}', "images.seed", "-1 is not an integer from 0 to 18446744073"),
        ('{"images": {"seed": 1.5}}', "images.seed", "1.5 is not an integer"),
        ('{"images": {"seed": "1_0"}}', "images.seed", '"1_0" is not an integer'),
        ('{"images": {"seed": NaN}}', "images.seed", "NaN is not an integer"),
        ('{"images": {"classId": true}}', "images.classId", "true is not an integer"),
        ('{"images": {"classId": 2147483648}}', "images.classId", "from -2147483648 to 2147483647"),
        ('{"images": {"count": "two"}}', "images.count", '"two" is not an integer'),
        ('{"images": {"count": {"a": 1}}}', "images.count", '{"a": 1} is not an integer'),
        ('{"images": {"variant": 8}}', "images.variant", "8 is not a text"),
        ('{"images": {"truncation": true}}', "images.truncation", "true is not a number"),
        ('{"images": {"truncation": "1_0"}}', "images.truncation", '"1_0" is not a number'),
        (
            '{"images": {"classPerImage": {"classIds": [1, 4294967296]}}}',
            "images.classPerImage.classIds[1]",
            "4294967296 is not an integer",
        ),
        (
            '{"images": {"latents": {"values": [1, true]}}}',
            "images.latents.values[1]",
            "true is not a number",
        ),
        (
            '{"images": {"filter": {"rejectionSampling": 1}}}',
            "images.filter.rejectionSampling",
            "1 is not true or false",
        ),
        (
            '{"images": {"classId": 1, "classLabel": "one"}}',
            "images.classLabel",
            "only one of this and images.classId is possible",
        ),
        (
            '{"images": {"first_index": "3", "firstIndex": "4"}}',
            "images.firstIndex",
            "only one of this and images.first_index is possible",
        ),
        ('{"output": {"format": "BMP"}}', "output.format", "BMP"),
        ('{"output": {"format": 1.5}}', "output.format", "1.5 is none of IMAGE_FORMAT_RAW"),
        ('{"output": {"format": "\u0663"}}', "output.format", "is none of IMAGE_FORMAT_RAW"),
        ('{"output": {"format": [1]}}', "output.format", "[1] is none of IMAGE_FORMAT_RAW"),
        ('{"output": {"format": 4294967296}}', "output.format", "is none of IMAGE_FORMAT_RAW"),
        ('{"images": []}', "images", "it is not a JSON object"),
        ('{"images": "mnist"}', "images", "it is not a JSON object"),
        ('{"images": {"truncation": "low"}}', "images.truncation", '"low" is not a number'),
        ("[]", "body", "not a JSON object"),
    ],
)
def test_fault_names_its_field(body, field, why):
    """The violation has the path of the field in the body."""
    check_fault(body, messages.GenerateRequest, field, why)


@pytest.mark.parametrize(
    ("body", "field", "why"),
    [
        ('{"sources": {"encoded": {}}}', "sources", "it is not a JSON list"),
        ('{"sources": ["iVBO"]}', "sources[0]", "it is not a JSON object"),
        ('{"sources": [{}, 3]}', "sources[1]", "it is not a JSON object"),
        ('{"sources": [{"encoded": {"pictures": "iVBO"}}]}', "sources[0].encoded.pictures", "list"),
        (
            '{"sources": [{"encoded": {"pictures": ["iVBO", "!!"]}}]}',
            "sources[0].encoded.pictures[1]",
            "it is not Base64",
        ),
        (
            '{"sources": [{"encoded": {"mask": "data:image/png;base64,iVBO"}}]}',
            "sources[0].encoded.mask",
            "a data URL",
        ),
        *(
            (
                f'{{"sources": [{{"encoded": {{"pictures": ["iVBO", {value}]}}}}]}}',
                "sources[0].encoded.pictures[1]",
                "it is not Base64",
            )
            for value in ("3", "null", '"iVBOR"', '"iVBO\u00a0"')
        ),
        ('{"fit": "crop"}', "fit", "'crop' is none of SOURCE_FIT_REFUSE, SOURCE_FIT_CROP"),
        ('{"fit": true}', "fit", "true is none of SOURCE_FIT_REFUSE, SOURCE_FIT_CROP"),
    ],
)
def test_fault_of_a_translation_names_its_field(body, field, why):
    """Lists, Base64 and names of enums are checked, with the number of the element."""
    check_fault(body, translation_service_pb2.TranslateRequest, field, why)


def test_base64_may_have_line_breaks():
    """The output of `base64` is taken as it is, and so is the alphabet of URLs."""
    body = b'{"sources": [{"encoded": {"pictures": ["iVBO\\nRw0K\\n", "_-8="]}}]}'
    request = parse_json(body, translation_service_pb2.TranslateRequest)
    assert list(request.sources[0].encoded.pictures) == [b"\x89PNG\r\n", b"\xff\xef"]


def test_numbers_may_be_texts():
    """So may the JSON mapping write them; integers may have a fraction of zero."""
    body = b'{"images": {"seed": 3.0, "count": "2", "truncation": "5e-1", "caption": null}}'
    images = parse_json(body, messages.GenerateRequest).images
    assert (images.seed, images.count, images.truncation) == (3, 2, 0.5)
    for number in (b"2", b'"2"', b"2.0", b'"IMAGE_FORMAT_PNG"'):
        body = b'{"output": {"format": ' + number + b"}}"
        assert (
            parse_json(body, messages.GenerateRequest).output.format == image_pb2.IMAGE_FORMAT_PNG
        )


def test_paths_have_the_names_of_json():
    """What the schema does not have stays as the caller wrote it."""
    for path, expected in (
        ("images.class_id", "images.classId"),
        ("images.class_per_image.class_ids", "images.classPerImage.classIds"),
        ("images.class_idd", "images.class_idd"),
        ("body", "body"),
    ):
        assert spell_json_path(path, messages.GenerateRequest) == expected
    path = "sources[2].raw.shape.num_rows"
    assert spell_json_path(path, translation_service_pb2.TranslateRequest) == path


def test_every_unknown_field_is_listed():
    """Fields inside of other fields are found, too."""
    with pytest.raises(InvalidRequest) as caught:
        parse_json(b'{"images": {"a": 1, "seed": 1}, "b": {"c": 1}}', messages.GenerateRequest)
    assert [violation.field for violation in caught.value.violations] == ["images.a", "b"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"images": [' + "[]," * 1_300_000 + "[]]}", "more than 4097 objects and lists"),
        ('{"a": [' + "{}," * 5_000 + "{}]}", "more than 4097 objects and lists"),
        ("{" + '"":0,' * 3_000 + '"":0}', f"more than {MOST_FIELDS} members"),
        ('{"a": [' + "0," * 300_000 + "0]}", f"more than {MOST_NUMBERS} values"),
        (r'{"a": ["\\", "\"", "\\\"", ' + "[]," * 5_000 + "[]]}", "objects and lists"),
    ],
)
def test_large_body_is_refused_before_it_is_parsed(monkeypatch, body, why):
    """Elements are counted in the bytes."""
    monkeypatch.setattr(json_messages.json, "loads", None)
    check_fault(body, messages.GenerateRequest, "body", why)


def test_values_of_lists_are_counted():
    """A list may have as many values as the limit says, and no more."""
    for count in (MOST_NUMBERS, MOST_NUMBERS + 1):
        body = json.dumps({"images": {"classPerImage": {"classIds": [1] * count}}})
        if count > MOST_NUMBERS:
            check_fault(body, messages.GenerateRequest, "body", f"more than {MOST_NUMBERS} values")
        else:
            request = parse_json(body.encode(), messages.GenerateRequest)
            assert len(request.images.class_per_image.class_ids) == count


def test_body_within_the_limits_is_parsed():
    """Characters in strings do not count, and lists may be long."""
    text = r"{[:,\"]}\\" * 100_000
    request = messages.GenerateRequest()
    request.images.caption = text
    request.images.latents.values.extend([0.5] * MOST_NUMBERS)
    body = json.dumps({"images": {"caption": text, "latents": {"values": [0.5] * MOST_NUMBERS}}})
    assert parse_json(body.encode(), messages.GenerateRequest) == request
    source = {"encoded": {"pictures": ["iVBO"]}}
    body = json.dumps({"sources": [source] * 1_023})
    parsed = parse_json(body.encode(), translation_service_pb2.TranslateRequest)
    assert len(parsed.sources) == 1_023


def test_other_encodings_are_refused():
    """RFC 8259 names UTF-8. A byte order mark is ignored, as before other JSON."""
    body = '{"images": {"model": "mnist"}}'
    assert parse_json(body.encode("utf-8-sig"), messages.GenerateRequest).images.model == "mnist"
    with pytest.raises(InvalidRequest, match="it is not JSON"):
        parse_json(body.encode("utf-16"), messages.GenerateRequest)
