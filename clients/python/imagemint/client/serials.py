"""Serial numbers: all that decides one image, in one line of text."""

import re
from dataclasses import dataclass
from typing import Self

from imagemint.client.errors import InvalidRequest, invalid

_FORM = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9._-]{0,63})@(?P<version>[1-9][0-9]*)"
    r"/(?P<seed>[0-9]+)/(?P<index>[0-9]+)(?:\?(?P<terms>.+))?"
)
_CLASS = re.compile(r"class=([0-9]+)")
_TRUNCATION = re.compile(r"truncation=([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Serial:
    """One serial number, such as `mnist@3/42/17?class=7&truncation=0.7`, taken apart."""

    model: str
    """Model name."""
    version: str
    """Version, a positive decimal integer."""
    seed: int
    """The reel, 0 to 2^64 - 1."""
    index: int
    """Position on the reel, 0 to 2^64 - 1."""
    class_id: int | None = None
    """Class index; None for an unconditional model."""
    truncation: float | None = None
    """Truncation; None for none, which is not the same as 0."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The serial that `text` spells. Ranges are the server's to check.

        Raises:
            InvalidRequest: not a serial number.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise _malformed(text)
        terms = match["terms"].split("&") if match["terms"] else []
        class_id = _CLASS.fullmatch(terms[0]) if terms else None
        truncation = _TRUNCATION.fullmatch(terms[-1]) if terms else None
        if len(terms) != bool(class_id) + bool(truncation):
            raise _malformed(text)
        return cls(
            model=match["model"],
            version=match["version"],
            seed=int(match["seed"]),
            index=int(match["index"]),
            class_id=int(class_id[1]) if class_id else None,
            truncation=float(truncation[1]) if truncation else None,
        )


def _malformed(text: str) -> InvalidRequest:
    example = "mnist@3/42/17?class=7&truncation=0.7"
    return invalid("serial", f"{text!r} is not a serial number, such as {example}")
