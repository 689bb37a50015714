"""Messages as JSON and back, in the JSON mapping of protocol buffers."""

import json
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from imagemint.engine.errors import InvalidRequest, Violation, shortened
from imagemint.server.rpc.message_limits import MOST_FIELDS, MOST_NUMBERS

MessageT = TypeVar("MessageT", bound=Message)


def encode_json(answer: Message | dict[str, Any]) -> bytes:
    """Returns a message, or members of plain values, as JSON.

    Fields without presence are written even if they have their default, so that index 0 is there.
    """
    if isinstance(answer, Message):
        answer = json_format.MessageToDict(answer, always_print_fields_with_no_presence=True)
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()


def encode_line(answer: Message | dict[str, Any]) -> bytes:
    """Returns a message as one line of JSON, with its newline."""
    return encode_json(answer) + b"\n"


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
    try:
        members = json.loads(body)
    except RecursionError:
        raise _refuse("it is nested too deeply") from None
    except ValueError as error:
        raise _refuse(f"it is not JSON: {error}") from None
    if not isinstance(members, dict):
        raise _refuse("it is not a JSON object")
    return fill_message(members, message)


def fill_message(members: dict[str, Any], message: MessageT) -> MessageT:
    """Sets the fields of a message from members of plain values, and returns it.

    Raises:
        InvalidRequest: a member does not fit its field, or there are too many.
    """
    _check_size(members)
    try:
        return json_format.ParseDict(members, message)
    except json_format.ParseError as error:
        raise _refuse(str(error)) from None
    except (RecursionError, OverflowError, UnicodeError, ValueError, TypeError) as error:
        raise _refuse(f"a value is not valid: {error}") from None


def _check_size(members: dict[str, Any]) -> None:
    """Checks the limits for messages, because a large object would take long to convert."""
    fields = numbers = 0
    left: list[Any] = [members]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            fields += len(each)
            left.extend(value for value in each.values() if isinstance(value, dict | list))
        else:
            numbers += len(each)
            left.extend(value for value in each if isinstance(value, dict | list))
        if fields > MOST_FIELDS:
            raise _refuse(f"it holds more than {MOST_FIELDS} members")
        if numbers > MOST_NUMBERS:
            raise _refuse(f"its lists hold more than {MOST_NUMBERS} values")


def _refuse(why: str) -> InvalidRequest:
    return InvalidRequest([Violation("body", shortened(why))])
