"""Suggestions for misspelled names."""

import difflib
from collections.abc import Iterable

_MOST = 3
_LIKENESS = 0.7


def find_similar(given: str, known: Iterable[str]) -> list[str]:
    """Returns up to three known names that are similar to the given one, the most similar first.

    Dashes and underscores are equal. A prefix of a name is similar to it.
    """
    by_letters = {name.strip("-").replace("_", "-"): name for name in known}
    letters = given.strip("-").replace("_", "-")
    longer = [letter for letter in by_letters if letter.startswith(letters)] if letters else []
    alike = difflib.get_close_matches(letters, by_letters, _MOST, _LIKENESS)
    return [by_letters[name] for name in dict.fromkeys([*alike, *longer])][:_MOST]


def suggest(given: str, known: Iterable[str]) -> str:
    """Returns the end of an error message, such as ``; did you mean mnist?``, or ""."""
    found = find_similar(given, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""
