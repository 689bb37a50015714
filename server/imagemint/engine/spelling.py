"""Suggests known names that are similar to a misspelled one."""

import difflib
from collections.abc import Iterable
from itertools import islice

# The search compares each letter with each letter.
_MOST_NAMES = 1_000
_MOST_LETTERS = 64
_LIKENESS = 0.7


def suggest(given: str, known: Iterable[str]) -> str:
    """Returns the end of an error message, such as `; did you mean 'mnist'?`, or an empty text.

    Case does not matter. Names after the first thousand and names of more than 64 letters are not
    compared, because a caller chooses the text.
    """
    if len(given) > _MOST_LETTERS:
        return ""
    by_letters = {each.lower(): each for each in islice(known, _MOST_NAMES)}
    for similar in difflib.get_close_matches(given.lower(), by_letters, 1, _LIKENESS):
        return f"; did you mean {by_letters[similar]!r}?"
    return ""
