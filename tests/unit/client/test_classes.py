"""Tests of --class: labels, indices and ambiguous labels."""

import pytest

from imagemint.client import Cycle, InvalidRequest
from imagemint.client.classes import parse_classes

ANIMALS = ("cat", "dog", "fox")
NUMBERS = ("1", "5")
SORTED_AS_TEXT = ("0", "1", "10", "11", "2")
ODD = ("a,b", "a", "c", "balanced", "index:1", "3")


@pytest.mark.parametrize(
    ("text", "labels", "condition"),
    [
        ("dog", ANIMALS, 1),
        ("2", ANIMALS, 2),
        ("index:2", ANIMALS, 2),
        ("label:fox", ANIMALS, 2),
        ("balanced", ANIMALS, Cycle()),
        ("fox, 0,dog", ANIMALS, Cycle([2, 0, 1])),
        ("5", NUMBERS, 1),
        ("label:1", NUMBERS, 0),
        ("index:1", NUMBERS, 1),
        ("11", SORTED_AS_TEXT, 3),
        ("0", SORTED_AS_TEXT, 0),
        ("label:2", SORTED_AS_TEXT, 4),
        ("a,b", ODD, 0),
        ("label:a,b", ODD, 0),
        ("c,a,b", ODD, Cycle([2, 0])),
        ("index:1,c", ODD, Cycle([1, 2])),
        ("label:a,label:c", ODD, Cycle([1, 2])),
        ("label:balanced", ODD, 3),
        ("label:index:1", ODD, 4),
        ("7", (), 7),
        ("cat", (), "cat"),
    ],
)
def test_class_is_parsed(text, labels, condition):
    """A label takes precedence unless it may be an index. A prefix makes it explicit."""
    assert parse_classes(text, labels) == condition


@pytest.mark.parametrize(
    ("text", "labels", "message"),
    [
        (
            "2",
            SORTED_AS_TEXT,
            "2 is the label of class 4 and the index of class '10'; use label:2 or index:2",
        ),
        ("1", NUMBERS, "use label:1 or index:1"),
        ("3", ANIMALS, "3 is outside 0 to 2"),
        ("-1", ANIMALS, "-1 is outside 0 to 2"),
        ("dogg", ANIMALS, "no class 'dogg'; the classes are cat, dog, fox; did you mean dog"),
        ("cat,,dog", ANIMALS, "no class ''"),
        ("label:9", ANIMALS, "no class '9'"),
    ],
)
def test_ambiguous_class_is_refused(text, labels, message):
    """The error has both meanings, or the existing classes."""
    with pytest.raises(InvalidRequest, match=message):
        parse_classes(text, labels)
