"""Messages as JSON and back, in the JSON mapping of protocol buffers."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from imagemint.engine.errors import InvalidRequest, Violation, quote, shorten
from imagemint.engine.spelling import suggest
from imagemint.server.rpc.message_limits import MOST_FIELDS, MOST_NUMBERS
from imagemint.v1 import image_pb2

MessageT = TypeVar("MessageT", bound=Message)

_FIELD = re.compile(r"Failed to parse (\w+) field: ")
_PLACE = re.compile(r" at \w+\.([\w.\[\]]+?)\.*$")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]*(?:=\s*){0,2}", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity")
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
# Encoding so much takes about a millisecond.
_LARGE_COUNT = 64
_LARGE_BYTES = 128 * 2**10
_MOST_FAULTS = 12
_MOST_QUOTED_VALUE = 50
# A list is the value of a member, and an object the value of a member or, with members of its own,
# of a list.
_MOST_CONTAINERS = 2 * MOST_FIELDS + 1


def encode_json(message: Message | dict[str, Any]) -> bytes:
    """Returns a message, or members of plain values, as JSON.

    Fields without presence are written even if they have their default, so that index 0 is there.
    """
    if isinstance(message, Message):
        message = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


def encode_line(message: Message | dict[str, Any]) -> bytes:
    """Returns a message as one line of JSON, with its newline."""
    return encode_json(message) + b"\n"


def is_large(batch: image_pb2.ImageBatch) -> bool:
    """Returns whether to encode a message with this batch on another thread than the event loop's.

    Pictures of a batch have about the same size, and reading one copies it, so one is measured.
    """
    size = len(batch.pictures[0]) * len(batch.pictures) if batch.pictures else 0
    return len(batch.images) >= _LARGE_COUNT or size >= _LARGE_BYTES


def parse_json(body: bytes, kind: type[MessageT]) -> MessageT:
    """Returns the message that a JSON object describes.

    Args:
        body: UTF-8; empty for a message without fields.
        kind: class of the message.

    Raises:
        InvalidRequest: the body is not JSON, is not such a message, or has too many elements.
    """
    message = kind()
    if not body:
        return message
    _check_structure(body)
    try:
        members = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_make_object)
    except RecursionError:
        raise _refuse("it is nested too deeply") from None
    except ValueError as error:
        raise _refuse(f"it is not JSON: {error}") from None
    if not isinstance(members, dict):
        raise _refuse("it is not a JSON object")
    return _fill_message(members, message)


def spell_json_path(path: str, kind: type[Message]) -> str:
    """Returns the path of a field with the names of JSON, such as `images.classId`.

    Args:
        path: path with the names of the schema. What it does not have stays as it is.
        kind: class of the message.
    """
    descriptor: Any = kind.DESCRIPTOR
    names = []
    for part in path.split("."):
        name, bracket, rest = part.partition("[")
        field = None if descriptor is None else descriptor.fields_by_name.get(name)
        names.append(part if field is None else field.json_name + bracket + rest)
        descriptor = None if field is None else field.message_type
    return ".".join(names)


def _check_structure(body: bytes) -> None:
    """Checks the limits for messages before a body is parsed.

    Parsing takes time and memory for each element, and holds the interpreter's lock meanwhile on
    any thread. 4 MB can hold a million empty lists, which take half a second and 100 MB.

    Raises:
        InvalidRequest: it holds too many members, objects, lists or values.
    """
    # Characters in strings only make the first count larger. Leaving them out takes longer.
    if _find_excess(body) and (why := _find_excess(_remove_strings(body))):
        raise _refuse(why)


def _find_excess(text: bytes) -> str | None:
    """Returns which limit a JSON text without strings exceeds; None for none."""
    if text.count(b":") > MOST_FIELDS:
        return f"it holds more than {MOST_FIELDS} members"
    if text.count(b"[") + text.count(b"{") > _MOST_CONTAINERS:
        return f"it holds more than {_MOST_CONTAINERS} objects and lists"
    if text.count(b",") > MOST_NUMBERS + MOST_FIELDS:
        return f"its lists hold more than {MOST_NUMBERS} values"
    return None


def _remove_strings(body: bytes) -> bytes:
    """Returns a JSON text without the characters of its strings."""
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    characters = np.frombuffer(plain, np.uint8)
    quotes = np.cumsum(characters == ord('"'), dtype=np.uint8)  # an overflow keeps the parity
    return bytes(characters[quotes % 2 == 0])


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object. Python would take the last of several equal names, silently.

    Raises:
        InvalidRequest: a name is there twice.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        repeated = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise _refuse(f"the name {quote(repeated)} is there more than once in an object")
    return members


def _fill_message(members: dict[str, Any], message: MessageT) -> MessageT:
    """Sets the fields of a message from members of plain values, and returns it.

    Raises:
        InvalidRequest: a member does not fit its field, or lists have too many values.
    """
    _check_values(members)
    faults = list(islice(_find_faults(members, message.DESCRIPTOR, ""), _MOST_FAULTS))
    if faults:
        raise InvalidRequest(faults)
    try:
        return json_format.ParseDict(members, message)
    except json_format.ParseError as error:
        raise InvalidRequest([_describe(str(error))]) from None
    except (RecursionError, OverflowError, UnicodeError, ValueError, TypeError) as error:
        raise _refuse(f"a value is not valid: {error}") from None


def _find_faults(
    members: dict[str, Any],
    descriptor: Any,  # noqa: ANN401 - Descriptor has another type in each of protobuf's engines
    prefix: str,
) -> Iterator[Violation]:
    """Yields the members that a message does not have, and those of another kind than their field.

    protobuf names unknown fields and wrong values with long texts or those of Python, takes `[]` as
    an empty object and `true` as a number, cuts 1.5 to the first value of an enum, takes the last
    of two spellings of a field, and leaves out what is no Base64.
    """
    by_name = {each.json_name: each for each in descriptor.fields}
    choices: dict[str, str] = {}
    for name, value in members.items():
        field = by_name.get(name) or descriptor.fields_by_name.get(name)
        path = f"{prefix}{shorten(name)}"
        if field is None:
            yield Violation(path, f"there is no such field{suggest(shorten(name), by_name)}")
        elif value is None or (field.message_type and field.message_type.GetOptions().map_entry):
            continue
        elif (first := choices.setdefault(_get_choice(field), path)) != path:
            yield Violation(path, f"only one of this and {first} is possible")
        elif not field.is_repeated:
            yield from _find_faults_of_value(value, field, path)
        elif isinstance(value, list):
            if _is_plain_list(value, field):
                continue
            for at, item in enumerate(value):
                yield from _find_faults_of_value(item, field, f"{path}[{at}]")
        else:
            yield Violation(path, "it is not a JSON list")


def _find_faults_of_value(
    value: object,
    field: Any,  # noqa: ANN401 - FieldDescriptor has another type in each of protobuf's engines
    path: str,
) -> Iterator[Violation]:
    kind = field.message_type
    if kind is not None:
        if isinstance(value, dict):
            yield from _find_faults(value, kind, f"{path}.")
        elif not kind.full_name.startswith("google.protobuf."):
            yield Violation(path, "it is not a JSON object")
    elif field.enum_type is not None:
        names = field.enum_type.values_by_name
        is_name = isinstance(value, str) and value in names
        if not is_name and not _is_integer(value, *_RANGES[FieldDescriptor.CPPTYPE_INT32]):
            known = [name for name in names if not name.endswith("_UNSPECIFIED")]
            given = quote(value) if isinstance(value, str) else _quote_json(value)
            yield Violation(path, f"{given} is none of {', '.join(known)}")
    elif field.type == field.TYPE_BYTES:
        if isinstance(value, str) and value.startswith("data:"):
            yield Violation(path, "a data URL is not Base64; leave out all up to its comma")
        elif not (isinstance(value, str) and _is_base64(value)):
            yield Violation(path, "it is not Base64")
    elif why := _check_scalar(value, field):
        yield Violation(path, f"{_quote_json(value)} is not {why}")


def _is_plain_list(values: list[Any], field: Any) -> bool:  # noqa: ANN401 - as above
    """Returns whether a list has only numbers that fit. It is quick for long lists."""
    kinds = set(map(type, values))
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return kinds <= {int, float}
    if field.cpp_type not in _RANGES or kinds != {int}:
        return False
    least, most = _RANGES[field.cpp_type]
    return bool(least <= min(values) and max(values) <= most)


def _get_choice(field: Any) -> str:  # noqa: ANN401 - as above
    """Returns the name of the oneof that a field belongs to, or else that of the field.

    A field has two spellings, `classId` and `class_id`, and only one of them may be there.
    """
    choice = field.containing_oneof
    # An optional field has a oneof of its own.
    name: str = field.name if choice is None or len(choice.fields) == 1 else choice.name
    return name


def _check_scalar(value: object, field: Any) -> str:  # noqa: ANN401 - as above
    """Returns what a value of a number, a text or a truth value should be; '' if it is that."""
    if field.type == field.TYPE_STRING:
        return "" if isinstance(value, str) else "a text"
    if field.type == field.TYPE_BOOL:
        return "" if isinstance(value, bool) else "true or false"
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_text = isinstance(value, str) and _DECIMAL.fullmatch(value) is not None
        return "" if is_number or is_text else "a number"
    least, most = _RANGES[field.cpp_type]
    return "" if _is_integer(value, least, most) else f"an integer from {least} to {most}"


def _is_integer(value: object, least: int, most: int) -> bool:
    """Returns whether a value is such an integer: a number, such as 1 or 1.0, or digits."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    if isinstance(value, str):
        if _INTEGER.fullmatch(value) is None:
            return False
        value = int(value)
    return least <= value <= most and value == int(value)


def _quote_json(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), _MOST_QUOTED_VALUE)


def _is_base64(text: str) -> bool:
    # One character more than a multiple of four would be six bits of a byte.
    return _BASE64.fullmatch(text) is not None and _count_digits(text) % 4 != 1


def _count_digits(text: str) -> int:
    return len(text) - sum(map(text.count, "= \t\n\r\f\v"))


def _describe(text: str) -> Violation:
    """Returns the field and the fault of an error of protobuf, which names the field in its text.

    For example: "Failed to parse images field: Failed to parse seed field: Value out of range: -1."
    If protobuf changes the text, the field is `body`, and the text stays.
    """
    names = []
    while found := _FIELD.match(text):
        names.append(found[1])
        text = text[found.end() :]
    if found := _PLACE.search(text):
        text = text[: found.start()]
        names = [found[1]]
    return Violation(shorten(".".join(names)) or "body", shorten(text.rstrip(".")))


def _check_values(members: dict[str, Any]) -> None:
    """Checks the number of values, because a long list would take long to convert."""
    numbers = 0
    left: list[Any] = [members]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left.extend(value for value in each.values() if isinstance(value, dict | list))
        else:
            numbers += len(each)
            left.extend(value for value in each if isinstance(value, dict | list))
        if numbers > MOST_NUMBERS:
            raise _refuse(f"its lists hold more than {MOST_NUMBERS} values")


def _refuse(why: str) -> InvalidRequest:
    return InvalidRequest([Violation("body", shorten(why))])
