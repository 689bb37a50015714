"""What somebody may have meant."""

import difflib
from collections.abc import Iterable

_MOST = 3
_LIKENESS = 0.7


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """Returns up to three of the known names that are much like the given one, the likest first.

    Dashes and underscores are one; a name's beginning is like the name.
    """
    by_letters = {name.strip("-").replace("_", "-"): name for name in known}
    letters = given.strip("-").replace("_", "-")
    longer = [each for each in by_letters if each.startswith(letters)] if letters else []
    alike = difflib.get_close_matches(letters, by_letters, _MOST, _LIKENESS)
    return [by_letters[each] for each in dict.fromkeys([*alike, *longer])][:_MOST]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Returns the end of a complaint, such as ``; did you mean mnist?``, or ""."""
    found = nearest(given, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""
