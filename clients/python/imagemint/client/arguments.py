"""Checks of arguments: each returns the value that a message takes, or raises InvalidRequest.

protobuf raises a bare TypeError for a value of a wrong type, and takes some of them as something
else, such as a bool as a number and bytes as text. No caller means that.
"""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from imagemint.client.errors import make_invalid_request

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1

ValueT = TypeVar("ValueT")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def describe(value: object) -> str:
    """Returns a short text of a value for an error message."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # an integer of more than 4,300 digits
        return f"a very large {type(value).__name__}"


def parse_text(name: str, value: object) -> str:
    """Returns `value`, a str.

    Raises:
        InvalidRequest: it is no str, or has a surrogate, which UTF-8 cannot encode.
    """
    if not isinstance(value, str):
        raise make_invalid_request(name, f"{describe(value)} is not a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise make_invalid_request(name, f"{describe(value)} is not valid Unicode") from None
    return str(value)  # not a subclass of str, such as NumPy's or an enum


def parse_choice(name: str, value: object, choices: Mapping[str, ValueT]) -> ValueT:
    """Returns the value of one of the choices.

    Raises:
        InvalidRequest: `value` is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise make_invalid_request(name, f"{describe(value)} is none of {', '.join(choices)}")
    return choices[value]


def parse_flag(name: str, value: object) -> bool:
    """Returns `value`, a bool.

    Raises:
        InvalidRequest: it is no bool.
    """
    if not isinstance(value, bool | np.bool_):
        raise make_invalid_request(name, f"{describe(value)} is not a bool")
    return bool(value)


def is_whole_number(value: object) -> bool:
    """Returns whether a value is an integer, of Python, NumPy or similar. A bool is none."""
    if isinstance(value, bool | np.bool_) or _is_array(value):
        return False
    try:
        value.__index__()  # type: ignore[attr-defined] # it is looked for
    except (AttributeError, TypeError):  # NumPy's arrays of floats raise TypeError
        return False
    return True


def parse_whole_number(name: str, value: Any, largest: int = INT32_MAX) -> int:  # noqa: ANN401 - NumPy's too
    """Returns `value` as an int.

    Raises:
        InvalidRequest: it is not an integer from 0 to `largest`.
    """
    if not is_whole_number(value):
        raise make_invalid_request(name, f"{describe(value)} is not a whole number")
    number = int(value.__index__())
    if not 0 <= number <= largest:
        raise make_invalid_request(name, f"{describe(number)} is outside 0 to {largest}")
    return number


def parse_number(name: str, value: Any) -> float:  # noqa: ANN401 - NumPy's too
    """Returns `value` as a float. The server checks the range.

    Raises:
        InvalidRequest: it is not a number of Python, NumPy or similar, or is too large for a float.
    """
    is_number = hasattr(value, "__float__") or hasattr(value, "__index__")
    if isinstance(value, bool | np.bool_ | str | bytes) or _is_array(value) or not is_number:
        raise make_invalid_request(name, f"{describe(value)} is not a number")
    try:
        return float(value)
    except (TypeError, ValueError):  # a class itself, for example
        raise make_invalid_request(name, f"{describe(value)} is not a number") from None
    except OverflowError:
        raise make_invalid_request(name, f"{describe(value)} is too large") from None


def _is_array(value: object) -> bool:
    """Returns whether a value has axes. NumPy also converts arrays of one element to numbers."""
    return bool(getattr(value, "ndim", 0))


def parse_items(name: str, value: object, noun: str) -> list[Any]:
    """Returns the items of an iterable.

    Args:
        name: name of the argument.
        value: the iterable.
        noun: the items in words, for the error.

    Raises:
        InvalidRequest: it is no iterable, or one text.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise make_invalid_request(name, f"{describe(value)} is not a sequence of {noun}")
    return list(value)
