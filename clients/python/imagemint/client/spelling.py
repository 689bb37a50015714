"""Suggestions for misspelled names."""

import difflib
from collections.abc import Iterable

_MOST = 3
_LIKENESS = 0.7


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """Returns up to three known names that resemble the given one, the most similar first.

    Dashes and underscores are the same; a prefix of a name resembles it.
    """
    by_letters = {name.strip("-").replace("_", "-"): name for name in known}
    letters = given.strip("-").replace("_", "-")
    longer = [each for each in by_letters if each.startswith(letters)] if letters else []
    alike = difflib.get_close_matches(letters, by_letters, _MOST, _LIKENESS)
    return [by_letters[each] for each in dict.fromkeys([*alike, *longer])][:_MOST]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Returns the end of an error message, such as ``; did you mean mnist?``, or ""."""
    found = nearest(given, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""
