"""Reads parameters of a query, or options of a form: named texts."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from imagemint.engine.errors import InvalidRequest, Violation, shorten

ValueT = TypeVar("ValueT")

_INTEGER = re.compile("0|[1-9][0-9]*")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
UINT64_MAX = 2**64 - 1
INT32_MAX = 2**31 - 1
_PARAMETERS = {
    "images.class_id": "class",
    "images.class_label": "class",
    "images.condition": "class",
    "images.first_index": "index",
    "page_size": "pageSize",
    "page_token": "pageToken",
}
_MOST_FAULTS = 12

Setter = Callable[[str], None]
"""Sets a value from its text; raises ValueError, with a description, if the text is wrong."""


def set_parameters(
    items: Iterable[tuple[str, str]], setters: Mapping[str, Setter], others: Sequence[str] = ()
) -> None:
    """Calls the setter of each parameter.

    Args:
        items: names and texts.
        setters: the setters by name.
        others: further names that the caller may use elsewhere, for the error of an unknown one.

    Raises:
        InvalidRequest: parameters are unknown, given more than once, or not in their range.
    """
    wrong: dict[str, Violation] = {}
    seen: set[str] = set()
    for name, text in items:
        known = setters.get(name)
        if known is None:
            why = f"not a parameter; there are {', '.join([*others, *setters])}"
        elif name in seen:
            why = "given more than once"
        else:
            seen.add(name)
            why = _call(known, text)
        if why:
            wrong.setdefault(name, Violation(shorten(name), why))
    if wrong:
        raise InvalidRequest(list(wrong.values())[:_MOST_FAULTS])


def _call(setter: Setter, text: str) -> str:
    """Calls a setter; returns what is wrong with the text, or an empty text."""
    try:
        setter(text)
    except (ValueError, OverflowError) as error:  # protobuf raises both for its ranges
        return shorten(str(error))
    return ""


def spell_parameter(path: str) -> str:
    """Returns the parameter that sets a field of a message, such as `class` for `images.class_id`.

    Args:
        path: path of the field. That of a field without a parameter stays as it is.
    """
    section, _, name = path.rpartition(".")
    return _PARAMETERS.get(path, name if section in ("images", "output") else path)


def parse_integer(text: str, most: int = UINT64_MAX) -> int:
    """Returns an integer from decimal digits without leading zeros, as in a serial number.

    So an image has one URL. `int` also takes spaces and underscores.

    Args:
        text: the digits.
        most: largest value.

    Raises:
        ValueError: the text is something else, or the integer is larger.
    """
    # The length comes first, because int() refuses very long texts with an error of its own.
    is_integer = _INTEGER.fullmatch(text) is not None and len(text) <= len(str(most))
    if not is_integer or int(text) > most:
        why = f"is not an integer from 0 to {most}, without zeros before it"
        raise ValueError(f"{shorten(text)!r} {why}")
    return int(text)


def parse_decimal(text: str) -> float:
    """Returns a number from decimal notation. `float` also takes spaces, underscores and `nan`.

    Raises:
        ValueError: the text is something else.
    """
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"{shorten(text)!r} is not a decimal number")
    return float(text)


def parse_choice(text: str, choices: Mapping[str, ValueT]) -> ValueT:
    """Returns the value of one of the choices.

    Raises:
        ValueError: the text is none of them.
    """
    if text not in choices:
        raise ValueError(f"{shorten(text)!r} is none of {', '.join(choices)}")
    return choices[text]
