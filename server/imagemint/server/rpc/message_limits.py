"""Parses requests, and refuses those that hold too many elements before it parses them.

Parsing takes time and memory for each field and each number, and holds the interpreter's lock
meanwhile on any thread. 4 MB can hold two million empty tensors, which take a tenth of a second and
170 MB. The fields of a large message are therefore counted in its bytes before it is parsed, and
the count ends at the limit. Bytes, text and packed floats are skipped.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError

from imagemint.engine.errors import InvalidRequest, Violation

MOST_FIELDS = 2_048
"""Most fields of a message, nested messages included."""
MOST_NUMBERS = 262_144
"""Most integers in all packed lists of a message, such as the classes of its images."""
MOST_HEALTH_CHECK_BYTES = 1_024
"""Largest request of a health check. It needs no key, and a watch keeps its request in memory."""
# A list with this many elements is named if a message has too many fields: fewer elements help.
_MANY_ELEMENTS = MOST_FIELDS // 16
# Smaller messages are parsed in less than a millisecond, whatever their fields are.
_SMALL_BYTES = 8 * 2**10

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_CONTINUED = 0x80
_LONGEST_VARINT = 10
_FIXED_TYPES = frozenset(
    {
        *(FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT),
        *(FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_FIXED64),
        *(FieldDescriptor.TYPE_SFIXED32, FieldDescriptor.TYPE_SFIXED64),
        *(FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING),
    }
)


class _MalformedError(Exception):
    """The bytes are not a message. The parser reports that as well."""


class _Span(NamedTuple):
    """A range of bytes and its message type; None if the schema does not define it."""

    kind: Descriptor | None
    start: int
    stop: int


def make_reader(
    method: str, parse: Callable[[bytes], Any] | None, most_bytes: int | None = None
) -> Callable[[bytes], Any]:
    """Returns a function that parses the requests of a method.

    Args:
        method: `/package.Service/Method`.
        parse: parses a request. Default: it stays bytes.
        most_bytes: largest request. Default: the limit of the server.

    Returns:
        A function of a request's bytes. It raises InvalidRequest if they are not a message of the
        method, or hold too many bytes or elements.
    """
    if parse is None:
        return bytes
    known_parse, kind = parse, _find_request_type(method)

    def read(content: bytes) -> Any:  # noqa: ANN401 - any message
        if most_bytes is not None and len(content) > most_bytes:
            raise _make_refusal(f"it has {len(content)} bytes, more than {most_bytes}")
        if len(content) > _SMALL_BYTES and kind is not None:
            check_contents(content, kind)
        try:
            return known_parse(content)
        except DecodeError:
            raise _make_refusal("its bytes are not a message of this type") from None

    return read


def check_contents(content: bytes, kind: Descriptor) -> None:
    """Checks that a serialized message may be parsed.

    Args:
        content: the message; the parser reports malformed parts.
        kind: type of the message.

    Raises:
        InvalidRequest: it holds more than MOST_FIELDS fields or MOST_NUMBERS packed numbers.
    """
    fields = numbers = 0
    spans = [_Span(kind, 0, len(content))]
    try:
        while spans:
            span = spans.pop()
            by_number = {} if span.kind is None else span.kind.fields_by_number
            for number, wire_type, start, stop in _iterate_fields(content, span.start, span.stop):
                fields += 1
                if fields > MOST_FIELDS:
                    raise _refuse_fields(content, kind)
                field = by_number.get(number)
                if wire_type != _DELIMITED or field is None or field.type in _FIXED_TYPES:
                    continue
                if field.message_type is not None:
                    spans.append(_Span(field.message_type, start, stop))
                    continue
                packed = np.frombuffer(content, np.uint8, stop - start, start)
                numbers += int(np.count_nonzero(packed < _CONTINUED))
                if numbers > MOST_NUMBERS:
                    raise _make_refusal(f"its lists hold more than {MOST_NUMBERS} numbers")
    except _MalformedError:
        return


def _iterate_fields(content: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields number, wire type, start and end of the value of each field in a range."""
    at = start
    while at < stop:
        tag, at = _read_varint(content, at, stop)
        wire_type, begin = tag & 7, at
        if wire_type == _VARINT:
            _, at = _read_varint(content, at, stop)
        elif wire_type == _DELIMITED:
            length, begin = _read_varint(content, at, stop)
            at = begin + length
        else:  # a group has no length, so its fields count at this level
            at += _FIXED_BYTES.get(wire_type, 0)
        if at > stop or tag >> 3 == 0:
            raise _MalformedError
        yield tag >> 3, wire_type, begin, at


def _read_varint(content: bytes, at: int, stop: int) -> tuple[int, int]:
    """Returns a number and the position after it."""
    if at < stop and content[at] < _CONTINUED:  # the usual case
        return content[at], at + 1
    value = 0
    for place, byte in enumerate(content[at : min(at + _LONGEST_VARINT, stop)]):
        value |= (byte & ~_CONTINUED) << (7 * place)
        if byte < _CONTINUED:
            return value, at + place + 1
    raise _MalformedError


def _find_request_type(method: str) -> Descriptor | None:
    """Returns the request type of a method; None for a method without a schema."""
    try:
        return Default().FindMethodByName(method[1:].replace("/", ".")).input_type
    except KeyError:
        return None


def _refuse_fields(content: bytes, kind: Descriptor) -> InvalidRequest:
    """Returns the error of a message with too many fields. It names a long list of messages."""
    found = islice(_iterate_fields(content, 0, len(content)), MOST_FIELDS)
    numbers = [number for number, *_ in found]
    ((number, count),) = Counter(numbers).most_common(1)
    field = kind.fields_by_number.get(number)
    is_list = field is not None and field.is_repeated and field.message_type is not None
    if field is None or not is_list or count < _MANY_ELEMENTS:
        return _make_refusal(f"it holds more than {MOST_FIELDS} fields")
    given = str(count) if len(numbers) < MOST_FIELDS else f"{count} or more"
    why = f"{given} {field.name} hold more than {MOST_FIELDS} fields; send fewer in a message"
    return InvalidRequest([Violation(field.name, why)])


def _make_refusal(why: str) -> InvalidRequest:
    return InvalidRequest([Violation("request", why)])
