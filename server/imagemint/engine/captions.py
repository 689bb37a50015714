"""Captions: texts that describe an image for a text-to-image model, with words of its vocabulary.

docs/sampling.md defines the normal form of a caption and its token ids.
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MAX_CHARACTERS = 2_000
"""Maximum characters of a caption, before it is split into words."""
MAX_VOCABULARY = 10_000
"""Maximum words of a vocabulary."""
MAX_WORDS = 256
"""Maximum words of a caption of any model."""
PADDING = 0
"""Token id after the last word."""

# Letters and digits of any script, and hyphens. The underscore separates words.
_WORD = re.compile(r"(?:[^\W_]|-)+")
# Limits on the words in an error message, and on the search for similar words, which runs on the
# event loop: without them, a caption of unknown words blocks it for a second if the vocabulary has
# 10,000 words.
_MOST_NAMED, _MOST_COMPARED, _LONGEST_COMPARED = 20, 5, 40
_MOST_CANDIDATES, _LENGTH_DIFFERENCE = 200, 2


def split_words(text: str) -> list[str]:
    """Returns the words of a text in lower case: its letters, digits and hyphens."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def normalize(text: str) -> str:
    """Returns the normal form of a caption: its words, separated by one space."""
    return " ".join(split_words(text))


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions that a model understands."""

    vocabulary: tuple[str, ...]
    """The known words. The token id of a word is its position, from 1 on."""
    max_words: int
    """Maximum words of a caption, and the length of its token ids."""
    examples: tuple[str, ...]
    """Captions in their normal form, at least one."""
    example_tokens: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """Token ids of the examples, int64 [K, max_words]."""
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {word: number for number, word in enumerate(self.vocabulary, start=1)}
        object.__setattr__(self, "_ids", ids)
        object.__setattr__(self, "example_tokens", self.encode(self.examples))

    def parse(self, text: str) -> str:
        """Returns the normal form of a caption that the model understands.

        Raises:
            ValueError: the caption has no word, too many words or unknown words. The message names
                the unknown words and similar known ones.
        """
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"{len(text)} characters; a caption has at most {MAX_CHARACTERS}")
        words = split_words(text)
        faults = []
        if not words:
            faults.append("it has no word")
        if len(words) > self.max_words:
            faults.append(
                f"{len(words)} words; a caption of this model has at most {self.max_words}"
            )
        if unknown := [word for word in dict.fromkeys(words) if word not in self._ids]:
            faults.append("unknown " + self._name_unknown(unknown))
        if faults:
            raise ValueError("; ".join(faults))
        return " ".join(words)

    def _name_unknown(self, unknown: Sequence[str]) -> str:
        named = [self._name_word(word, place) for place, word in enumerate(unknown[:_MOST_NAMED])]
        if len(unknown) > _MOST_NAMED:
            named.append(f"{len(unknown) - _MOST_NAMED} more")
        return ("words " if len(unknown) > 1 else "word ") + ", ".join(named)

    def _name_word(self, word: str, place: int) -> str:
        if len(word) > _LONGEST_COMPARED:
            return repr(word[:_LONGEST_COMPARED] + "…")
        if place < _MOST_COMPARED:
            for similar in difflib.get_close_matches(word, self._list_candidates(word), n=1):
                return f"{word!r} (similar: {similar!r})"
        return repr(word)

    def _list_candidates(self, word: str) -> list[str]:
        """Returns known words of about the same length, those with the same first letter first."""
        candidates = [
            known for known in self.vocabulary if abs(len(known) - len(word)) <= _LENGTH_DIFFERENCE
        ]
        candidates.sort(key=lambda known: known[0] != word[0])
        return candidates[:_MOST_CANDIDATES]

    def encode(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the token ids int64 [N, max_words] of captions in their normal form."""
        tokens = np.full((len(captions), self.max_words), PADDING, np.int64)
        for row, caption in enumerate(captions):
            ids = [self._ids[word] for word in caption.split(" ")]
            tokens[row, : len(ids)] = ids
        return tokens

    def decode(self, tokens: npt.NDArray[np.int64]) -> list[str]:
        """Returns the captions, in their normal form, of token ids int64 [N, max_words].

        Raises:
            ValueError: a row has no word, an id out of range, or a word after the padding.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.max_words:  # noqa: PLR2004 - axes
            raise ValueError(f"token ids are [N, {self.max_words}], not {list(tokens.shape)}")
        last = len(self.vocabulary)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() <= last:
            raise ValueError(f"a token id is not 0 to {last}")
        lengths = np.count_nonzero(tokens, axis=1)
        if (tokens.astype(bool) != (np.arange(self.max_words) < lengths[:, np.newaxis])).any():
            raise ValueError("a token id follows the padding; id 0 comes after the last word only")
        if not lengths.all():
            raise ValueError("a row has no word")
        return [
            " ".join(self.vocabulary[token - 1] for token in row[:length].tolist())
            for row, length in zip(tokens, lengths.tolist(), strict=True)
        ]
