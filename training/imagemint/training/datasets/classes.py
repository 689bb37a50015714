"""Converts labels to class indices."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemint.training.errors import DatasetError

Label = int | str
MISSING = -1
"""The index of a row that has no label."""
_DIGITS = re.compile(r"(\d+)")
_SHOWN = 10


def make_natural_key(text: str) -> tuple[list[str | int], str]:
    """Returns a key that sorts numbers within names by their value: 2 before 10."""
    parts: list[str | int] = list(_DIGITS.split(text))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, text


def compose_name(text: str) -> str:
    """Returns a name in Unicode's composed form (NFC): one spelling for what looks the same."""
    return unicodedata.normalize("NFC", text)


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns distinct names in composed form and natural order."""
    return tuple(sorted({compose_name(name) for name in names}, key=make_natural_key))


def number_classes(
    values: Sequence[Label | None],
    place: Callable[[int], str],
    *,
    declared: tuple[str, ...] = (),
    known: tuple[str, ...] | None = None,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Returns labels int64 [N], `MISSING` for no label, and the names of the classes.

    Args:
        values: integers or names. None and an empty text mean no label. So does -1 if the classes
            have names, because data sets use it for hidden labels.
        place: returns the place of a row's label, for errors.
        declared: names of the classes in the data set, by index.
        known: names from the user or the training split, which override ``declared``. Labels that
            are not among them are indices into them.

    Raises:
        DatasetError: a label is not one of the classes; the message names it.
    """
    missing = (None, "", MISSING) if declared else (None, "")
    cleaned = [None if value in missing else value for value in values]
    present = [value for value in cleaned if value is not None]
    if known is None and declared and not any(isinstance(value, str) for value in present):
        # LabelledImages refuses a label out of range, because it knows the row.
        return _as_array(cleaned), declared
    texts = {compose_name(str(value)) for value in present}
    names = known or declared or _list_distinct(present)
    index = {compose_name(name): label for label, name in enumerate(names)}
    if known is not None and not texts <= index.keys() and _are_indices(texts, len(names)):
        return _as_array([None if value is None else int(value) for value in cleaned]), names
    for row, value in enumerate(cleaned):
        if value is not None and compose_name(str(value)) not in index:
            raise DatasetError(f"{place(row)}: {_describe_unknown_label(str(value), names)}")
    return (
        _as_array(
            [None if value is None else index[compose_name(str(value))] for value in cleaned]
        ),
        names,
    )


def _describe_unknown_label(text: str, names: Sequence[str]) -> str:
    ellipsis = ", ..." if len(names) > _SHOWN else ""
    matches = get_close_matches(text, names, 1)
    hint = f"; did you mean {matches[0]!r}?" if matches else ""
    examples = ", ".join(names[:_SHOWN])
    return f"class {text!r} is none of the {len(names)} classes {examples}{ellipsis}{hint}"


def _are_indices(texts: Iterable[str], count: int) -> bool:
    return all(text.isascii() and text.isdigit() and int(text) < count for text in texts)


def _list_distinct(values: Sequence[Label]) -> tuple[str, ...]:
    """Returns the labels that appear: integers by value, which may be negative, or names."""
    numbers = {value for value in values if isinstance(value, int)}
    if len(numbers) == len(set(values)):
        return tuple(str(number) for number in sorted(numbers))
    return sort_names(str(value) for value in values)


def _as_array(values: Sequence[Label | None]) -> NDArray[np.int64]:
    return np.array([MISSING if value is None else value for value in values], np.int64)


def read_labels_file(path: Path) -> tuple[str, ...]:
    """Returns the names of classes from a UTF-8 text file, one a line, in the order of the indices.

    Raises:
        DatasetError: the file is invalid, has no names, an empty line between names, or a
            duplicate.
    """
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: not a text file with a label on each line ({error})"
        ) from error
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        line = names.index("") + 1 if names else 1
        raise DatasetError(f"{path}: each line must contain a label, but line {line} is empty")
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise DatasetError(f"{path}: label {duplicate!r} occurs twice")
    return tuple(names)
