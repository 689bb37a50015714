"""Tests of imagemint.server.http.parameters."""

import pytest

from imagemint.engine.errors import InvalidRequest
from imagemint.server.http.parameters import (
    INT32_MAX,
    parse_choice,
    parse_decimal,
    parse_integer,
    set_parameters,
)


@pytest.mark.parametrize("text", ["", "-1", "+1", "07", "1_0", " 1", "\u0667", "1.0", "9" * 5_000])
def test_other_integer_is_refused(text):
    """An integer has one spelling."""
    with pytest.raises(ValueError, match="is not an integer"):
        parse_integer(text)


def test_range_of_an_integer_is_named():
    """An integer that is too large is refused with the largest one."""
    assert parse_integer("18446744073709551615") == 2**64 - 1
    with pytest.raises(ValueError, match="is not an integer from 0 to 18446744073709551615"):
        parse_integer("18446744073709551616")
    assert parse_integer("2147483647", INT32_MAX) == INT32_MAX
    with pytest.raises(ValueError, match="is not an integer from 0 to 2147483647"):
        parse_integer("2147483648", INT32_MAX)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "1_0", " 0.7", "\u0660.\u0667", ".5", "5.", "0x1"]
)
def test_other_decimal_is_refused(text):
    """`float` would take most of these."""
    with pytest.raises(ValueError, match="is not a decimal number"):
        parse_decimal(text)


@pytest.mark.parametrize(("text", "number"), [("0.7", 0.7), ("-1", -1.0), ("1e-05", 1e-05)])
def test_decimal_is_read(text, number):
    """The notation is that of serial numbers and of JSON."""
    assert parse_decimal(text) == number


def test_every_wrong_parameter_is_listed():
    """Unknown, repeated and wrong parameters are named once, and the others are set."""
    found = {}
    setters = {
        "seed": lambda text: found.update(seed=parse_integer(text)),
        "fit": lambda text: found.update(fit=parse_choice(text, {"crop": 1})),
        "class": lambda text: found.update(label=text),
    }
    items = [("seed", "x"), ("fit", "big"), ("class", "a"), ("class", "b"), ("hue", "1")]
    with pytest.raises(InvalidRequest) as caught:
        set_parameters(items, setters)
    wrong = {violation.field: violation.description for violation in caught.value.violations}
    assert list(wrong) == ["seed", "fit", "class", "hue"]
    assert wrong["fit"] == "'big' is none of crop"
    assert wrong["class"] == "given more than once"
    assert wrong["hue"] == "not a parameter; there are seed, fit, class"
    assert found == {"label": "a"}
