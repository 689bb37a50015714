"""Formats and parses serial numbers. A serial number determines one image, in one line of text."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from imagemint.engine.captions import normalize

_INTEGER = r"(?:0|[1-9][0-9]*)"
_FORM = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9._-]{0,63})"
    r"@(?P<version>[1-9][0-9]*)(?:\+(?P<variant>[a-z0-9][a-z0-9-]{0,31}))?"
    rf"/(?P<seed>{_INTEGER})/(?P<index>{_INTEGER})"
    r"(?:\?(?P<terms>.+))?"
)
_CLASS = re.compile(rf"class=({_INTEGER})")
_CAPTION = re.compile(r"caption=((?:[A-Za-z0-9-]|%[0-9A-F]{2})+)")
_SOURCE = re.compile(r"source=([0-9a-f]{32})")
_TRUNCATION = re.compile(r"truncation=([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
_SOURCE_DIGITS = 32
_UINT64_MAX = 2**64 - 1
# These words select a variant in a request, but they are no names of variants.
_NOT_VARIANTS = ("auto", "reference")


@dataclass(frozen=True, slots=True)
class Serial:
    """The number of an image, from which the same pixels can be generated again.

    `str()` returns its text, such as `mnist@3/42/17?class=7&truncation=0.7`; for a variant
    `mnist@3+int8/42/17?class=7`, for a text-to-image model `people@1/42/17?caption=red%20hair`, and
    for an image-to-image model `sketch@1/0/0?source=` with 32 hexadecimal digits. `parse()` reads
    it back exactly.
    """

    model: str
    """Model name, as in the manifest."""
    version: int
    """Version, 1 or more."""
    seed: int
    """Seed, 0 to 2^64 - 1."""
    index: int
    """Index of the image for this seed, 0 to 2^64 - 1."""
    class_id: int | None = None
    """Class, 0 to K - 1; None for a model without classes."""
    truncation: float | None = None
    """Truncation; None for no truncation, which differs from 0."""
    variant: str | None = None
    """Name of the variant; None for the reference, which a serial number does not name."""
    caption: str | None = None
    """Caption in its normal form; None for a model without captions."""
    source: str | None = None
    """Digest of the source, see `hash_source`; None for a model without a source."""

    def __str__(self) -> str:
        prefix = spell_prefix(self.model, self.version, self.variant, self.seed)
        terms = spell_terms(self.class_id, self.caption, self.truncation, self.source)
        return f"{prefix}{self.index}{terms}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a serial number.

        Args:
            text: the result of `str()`; the truncation may be any plain decimal number.

        Raises:
            ValueError: the text is not a serial number, or a number in it is out of range.
        """
        found = _FORM.fullmatch(text)
        if found is None or found["variant"] in _NOT_VARIANTS:
            raise _make_error(text)
        terms = _parse_terms(text, found["terms"])
        seed, index = int(found["seed"]), int(found["index"])
        if max(seed, index) > _UINT64_MAX:
            raise ValueError(f"{text!r}: seed and index are at most 2^64 - 1")
        version = int(found["version"])
        variant = found["variant"]
        return cls(found["model"], version, seed, index, variant=variant, **terms)


def hash_source(source: npt.NDArray[np.uint8]) -> str:
    """Returns the digest of a source in serials: 32 hexadecimal digits.

    They are the first half of the SHA-256 of height, width and depth, each as four bytes, little
    endian, and then of the pixels, row by row, channels last.

    Args:
        source: uint8 [height, width, depth], as the graph receives it.
    """
    digest = hashlib.sha256(np.array(source.shape, "<u4").tobytes())
    digest.update(np.ascontiguousarray(source).data)
    return digest.hexdigest()[:_SOURCE_DIGITS]


def spell_prefix(model: str, version: int, variant: str | None, seed: int) -> str:
    """Returns the first part of the serials of a seed, up to the index."""
    return f"{model}@{version}{'' if variant is None else f'+{variant}'}/{seed}/"


@lru_cache(maxsize=1_024)
def spell_terms(
    class_id: int | None,
    caption: str | None,
    truncation: float | None,
    source: str | None = None,
) -> str:
    """Returns the last part of a serial, which follows the index.

    The result is cached, because it is needed for every image, and is equal for most images.
    """
    terms = []
    if class_id is not None:
        terms.append(f"class={class_id}")
    if caption is not None:
        terms.append(f"caption={quote(caption, safe='')}")
    if source is not None:
        terms.append(f"source={source}")
    if truncation is not None:
        # repr is the shortest decimal that reads back as the same float64.
        terms.append(f"truncation={float(truncation)!r}")
    return f"?{'&'.join(terms)}" if terms else ""


def _parse_terms(text: str, terms: str | None) -> dict[str, Any]:
    """Returns class, caption, source and truncation from the part after the question mark.

    The terms have this order, and each one may be missing.
    """
    parsed: dict[str, Any] = {}
    rest = [] if terms is None else terms.split("&")
    for name, form, read in _TERMS:
        if rest and (found := form.fullmatch(rest[0])):
            try:
                parsed[name] = read(found[1])
            except ValueError:
                raise _make_error(text) from None
            rest.pop(0)
    if rest:
        raise _make_error(text)
    return parsed


def _parse_caption(term: str) -> str:
    caption = unquote(term, errors="replace")
    if caption != normalize(caption) or quote(caption, safe="") != term:
        raise ValueError(term)
    return caption


def _parse_truncation(term: str) -> float:
    truncation = float(term)
    if not math.isfinite(truncation):
        raise ValueError(term)
    return truncation


_TERMS: tuple[tuple[str, re.Pattern[str], Callable[[str], object]], ...] = (
    ("class_id", _CLASS, int),
    ("caption", _CAPTION, _parse_caption),
    ("source", _SOURCE, str),
    ("truncation", _TRUNCATION, _parse_truncation),
)


def _make_error(text: str) -> ValueError:
    return ValueError(
        f"{text!r} is not a serial number; one looks like mnist@3/42/17?class=7&truncation=0.7"
    )
