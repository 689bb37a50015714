"""Parses the option --class with the labels of a model."""

import re
from collections.abc import Sequence

from imagemint.client.errors import InvalidRequest, make_invalid_request
from imagemint.client.requests import Condition, Cycle
from imagemint.client.spelling import suggest

BALANCED = "balanced"

_NUMBER = re.compile(r"-?[0-9]+")
_MOST_LISTED = 20


def parse_classes(text: str, labels: Sequence[str]) -> Condition:
    """Returns the condition that `text` describes.

    Args:
        text: `balanced`, or classes separated by commas. A class is a label, an index, or an
            explicit `label:5` or `index:5`. A label may contain commas: the longest label that
            matches counts.
        labels: label texts of the model by index; empty for an unconditional one.

    Raises:
        InvalidRequest: a class is unknown, or could be the label of one class and the index of
            another.
    """
    if text.strip() == BALANCED:
        return Cycle()
    if not labels:  # the server reports that the model has no classes
        return int(text) if _NUMBER.fullmatch(text.strip()) else text
    found = _parse_list(text, labels)
    return found[0] if len(found) == 1 else Cycle(found)


def _parse_list(text: str, labels: Sequence[str]) -> list[int]:
    parts = text.split(",")
    found: list[int] = []
    start = 0
    while start < len(parts):
        for end in range(len(parts), start, -1):
            index = _parse_class(",".join(parts[start:end]).strip(), labels)
            if index is not None:
                found.append(index)
                start = end
                break
        else:
            raise _make_unknown_error(parts[start].strip(), labels)
    return found


def _parse_class(text: str, labels: Sequence[str]) -> int | None:
    """Returns the index of one class; None if there is no class of this name."""
    kind, colon, name = text.partition(":")
    if colon and kind == "label" and name in labels:
        return labels.index(name)
    if colon and kind == "index" and _NUMBER.fullmatch(name):
        return _check_index(int(name), labels)
    by_label = labels.index(text) if text in labels else None
    if not _NUMBER.fullmatch(text):
        return by_label
    if by_label is None:
        return _check_index(int(text), labels)
    if int(text) != by_label and 0 <= int(text) < len(labels):
        raise make_invalid_request(
            "class",
            f"{text} is the label of class {by_label} and the index of class "
            f"{labels[int(text)]!r}; use label:{text} or index:{text}",
        )
    return by_label


def _check_index(index: int, labels: Sequence[str]) -> int:
    if not 0 <= index < len(labels):
        raise make_invalid_request("class", f"{index} is outside 0 to {len(labels) - 1}")
    return index


def _make_unknown_error(text: str, labels: Sequence[str]) -> InvalidRequest:
    name = text.removeprefix("label:").removeprefix("index:")
    known = ", ".join(labels[:_MOST_LISTED])
    more = f" and {len(labels) - _MOST_LISTED} more" if len(labels) > _MOST_LISTED else ""
    hint = suggest(name, labels)
    return make_invalid_request(
        "class", f"there is no class {name!r}; the classes are {known}{more}{hint}"
    )
