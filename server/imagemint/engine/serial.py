"""Serial numbers: all that decides one image, in one line of text."""

import math
import re
from dataclasses import dataclass
from typing import Self

_INTEGER = r"(?:0|[1-9][0-9]*)"
_FORM = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9._-]{0,63})"
    r"@(?P<version>[1-9][0-9]*)(?:\+(?P<variant>[a-z0-9][a-z0-9-]{0,31}))?"
    rf"/(?P<seed>{_INTEGER})/(?P<index>{_INTEGER})"
    r"(?:\?(?P<terms>.+))?"
)
_CLASS = re.compile(rf"class=({_INTEGER})")
_TRUNCATION = re.compile(r"truncation=([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
_UINT64_MAX = 2**64 - 1
# These words ask for a variant, but no variant has such a name.
_NOT_VARIANTS = ("auto", "reference")


@dataclass(frozen=True, slots=True)
class Serial:
    """The name under which the same pixels can be minted again.

    `str()` gives its one spelling, such as `mnist@3/42/17?class=7&truncation=0.7`, or of a variant
    `mnist@3+int8/42/17?class=7`; `parse()` reads it back exactly.
    """

    model: str
    """Model name, as in the manifest."""
    version: int
    """Version, 1 or more."""
    seed: int
    """The reel, 0 to 2^64 - 1."""
    index: int
    """Position on the reel, 0 to 2^64 - 1."""
    class_id: int | None = None
    """Class, 0 to K - 1; None for an unconditional model."""
    truncation: float | None = None
    """Truncation; None for none, which is not the same as 0."""
    variant: str | None = None
    """Name of the variant; None for the reference, which is never spelled."""

    def __str__(self) -> str:
        return spelled(
            *(self.model, self.version, self.seed, self.index),
            class_id=self.class_id,
            truncation=self.truncation,
            variant=self.variant,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The serial that `text` spells.

        Args:
            text: as `str()` writes it; truncation may be any plain decimal number.

        Raises:
            ValueError: not a serial number, or a number in it is out of range.
        """
        found = _FORM.fullmatch(text)
        if found is None or found["variant"] in _NOT_VARIANTS:
            raise _malformed(text)
        class_id, truncation = _conditions(text, found["terms"])
        seed, index = int(found["seed"]), int(found["index"])
        if max(seed, index) > _UINT64_MAX:
            raise ValueError(f"{text!r}: seed and index are at most 2^64 - 1")
        version = int(found["version"])
        variant = found["variant"]
        return cls(found["model"], version, seed, index, class_id, truncation, variant)


def spelled(  # noqa: PLR0917 - in the order in which they are spelt; and called for every image
    model: str,
    version: int,
    seed: int,
    index: int,
    class_id: int | None = None,
    truncation: float | None = None,
    variant: str | None = None,
) -> str:
    """The one spelling of a serial number, of the parts of a `Serial`: for those who spell many."""
    text = f"{model}@{version}{'' if variant is None else f'+{variant}'}/{seed}/{index}"
    if class_id is not None:
        text = f"{text}?class={class_id}"
    if truncation is not None:
        # repr is the shortest decimal that reads back as the same float64.
        text = f"{text}{'?' if class_id is None else '&'}truncation={float(truncation)!r}"
    return text


def _conditions(text: str, terms: str | None) -> tuple[int | None, float | None]:
    """Class and truncation from what follows the question mark: either, or both in that order."""
    if terms is None:
        return None, None
    rest = terms.split("&")
    class_id = truncation = None
    if found := _CLASS.fullmatch(rest[0]):
        class_id = int(found[1])
        rest.pop(0)
    if rest and (found := _TRUNCATION.fullmatch(rest[0])):
        truncation = float(found[1])
        rest.pop(0)
    if rest or (truncation is not None and not math.isfinite(truncation)):
        raise _malformed(text)
    return class_id, truncation


def _malformed(text: str) -> ValueError:
    return ValueError(
        f"{text!r} is not a serial number; one looks like mnist@3/42/17?class=7&truncation=0.7"
    )
