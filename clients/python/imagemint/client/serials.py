"""Parses serial numbers. A serial number determines one image, in one line of text."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias
from urllib.parse import quote, unquote

from imagemint.client.arguments import describe, parse_items, parse_text
from imagemint.client.errors import InvalidRequest, make_invalid_request

# Without leading zeros, because an image has one serial number. The server checks the ranges.
_INTEGER = "(?:0|[1-9][0-9]{0,19})"
_MODEL = "[a-z0-9][a-z0-9._-]{0,63}"
_VERSION = "[1-9][0-9]{0,19}"
_FORM = re.compile(
    rf"(?P<model>{_MODEL})@(?P<version>{_VERSION})"
    r"(?:\+(?P<variant>[a-z0-9][a-z0-9-]{0,31}))?"
    rf"/(?P<seed>{_INTEGER})/(?P<index>{_INTEGER})(?:\?(?P<terms>.+))?"
)
_CLASS = re.compile(rf"class=({_INTEGER})")
_CAPTION = re.compile(r"caption=((?:[A-Za-z0-9-]|%[0-9A-F]{2})+)")
_SOURCE = re.compile(r"source=([0-9a-f]{32})")
_TRUNCATION = re.compile(r"truncation=([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
REFERENCE = "reference"
"""Requests model.onnx, which a serial number without a variant refers to."""
MODEL_AND_VERSION = re.compile(f"{_MODEL}@{_VERSION}")
"""Form of a model and its version, such as `mnist@3`. It contains no separator of paths."""
# These words select a variant in a request, but they are no names of variants.
_NOT_VARIANTS = ("auto", REFERENCE)


@dataclass(frozen=True, slots=True)
class Serial:
    """A parsed serial number, such as `mnist@3/42/17?class=7&truncation=0.7`.

    `str()` returns its text.
    """

    model: str
    """Model name."""
    version: str
    """Version, a positive decimal integer."""
    seed: int
    """Seed, 0 to 2^64 - 1."""
    index: int
    """Index of the image for this seed, 0 to 2^64 - 1."""
    class_id: int | None = None
    """Class index; None for a model without classes."""
    truncation: float | None = None
    """Truncation; None for no truncation, which differs from 0."""
    variant: str | None = None
    """Name of the variant; None for the reference, which a serial number does not name."""
    caption: str | None = None
    """Caption; None for a model without captions."""
    source: str | None = None
    """Digest of the source; None for a model that takes no source."""

    def __str__(self) -> str:
        terms = {
            "class": self.class_id,
            "caption": None if self.caption is None else _quote(self.caption),
            "source": self.source,
            # repr is the shortest decimal that reads back as the same float64.
            "truncation": None if self.truncation is None else repr(float(self.truncation)),
        }
        query = "&".join(f"{name}={value}" for name, value in terms.items() if value is not None)
        return f"{self.maker}/{self.seed}/{self.index}" + (f"?{query}" if query else "")

    @property
    def maker(self) -> str:
        """Model, version and variant of the image, such as `mnist@3` or `mnist@3+int8`."""
        return f"{self.model}@{self.version}" + (f"+{self.variant}" if self.variant else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a serial number. The server checks the ranges.

        Raises:
            InvalidRequest: `text` is not a serial number.
        """
        match = _FORM.fullmatch(parse_text("serial", text))
        if match is None or match["variant"] in _NOT_VARIANTS:
            raise _make_error(text)
        terms = match["terms"].split("&") if match["terms"] else []
        class_id, caption, source, truncation = (
            terms.pop(0) if terms and form.fullmatch(terms[0]) else None
            for form in (_CLASS, _CAPTION, _SOURCE, _TRUNCATION)
        )
        if terms or (truncation and math.isinf(float(_read_value(truncation)))):
            raise _make_error(text)
        return cls(
            model=match["model"],
            version=match["version"],
            seed=int(match["seed"]),
            index=int(match["index"]),
            class_id=int(_read_value(class_id)) if class_id else None,
            truncation=float(_read_value(truncation)) if truncation else None,
            variant=match["variant"],
            caption=unquote(_read_value(caption)) if caption else None,
            source=_read_value(source) if source else None,
        )


SerialLike: TypeAlias = str | Serial
"""A serial number, as text or parsed."""


def parse_serials(serial: SerialLike | Sequence[SerialLike]) -> list[Serial]:
    """Parses serial numbers of one model, version and variant.

    Raises:
        InvalidRequest: there is none, a text is not a serial number, or they belong to several
            models, versions or variants.
    """
    if isinstance(serial, str | Serial):
        given: list[SerialLike] = [serial]
    else:
        given = parse_items("serial", serial, "serial numbers")
    serials = [each if isinstance(each, Serial) else Serial.parse(each) for each in given]
    if not serials:
        raise make_invalid_request("serial", "no serial numbers are given")
    if any(each.source for each in serials):
        why = "an image of a translation is made again from its source: call translate"
        raise make_invalid_request("serial", why)
    kinds = sorted({each.maker for each in serials})
    if len(kinds) > 1:
        makers = ", ".join(kinds)
        raise make_invalid_request(
            "serial", f"one call takes one model, version and variant, not {makers}"
        )
    return serials


def spell_serials(name: str, serials: Sequence[SerialLike]) -> list[str]:
    """Returns the texts of serial numbers, for a message.

    Raises:
        InvalidRequest: one is neither a text nor a Serial; the error calls them `name`.
    """
    return [
        str(item) if isinstance(item, Serial) else parse_text(f"{name}[{at}]", item)
        for at, item in enumerate(parse_items(name, serials, "serial numbers"))
    ]


@dataclass(frozen=True, slots=True)
class Run:
    """Serial numbers with one seed and consecutive indices, which one call can request."""

    first: Serial
    """First serial number."""
    class_ids: tuple[int, ...]
    """Class of each image; empty for a model without classes."""
    positions: tuple[int, ...]
    """Position of each serial number in the original sequence."""

    def __len__(self) -> int:
        return len(self.positions)


def cut_into_runs(serials: Sequence[Serial], limit: Callable[[str], int]) -> list[Run]:
    """Returns runs that contain each serial number: the fewest, if none is there twice.

    Args:
        serials: serial numbers in any order. A run has each of them once, so duplicates are in
            several runs.
        limit: returns the largest number of images of one call, by the name of the model.
    """
    ordered = sorted(
        range(len(serials)), key=lambda at: (_make_sequence_key(serials[at]), serials[at].index)
    )
    runs: list[Run] = []
    for at in ordered:
        serial = serials[at]
        last = runs[-1] if runs else None
        if (
            last is None
            or _make_sequence_key(last.first) != _make_sequence_key(serial)
            or last.first.index + len(last) != serial.index
            or len(last) >= limit(serial.model)
        ):
            last = Run(serial, (), ())
            runs.append(last)
        class_ids = () if serial.class_id is None else (*last.class_ids, serial.class_id)
        runs[-1] = Run(last.first, class_ids, (*last.positions, at))
    return runs


def _make_sequence_key(serial: Serial) -> tuple[object, ...]:
    """Returns a sort key of the properties that all serial numbers of a run share."""
    truncation = -1.0 if serial.truncation is None else serial.truncation
    caption = serial.caption or ""
    return serial.maker, serial.seed, truncation, serial.class_id is not None, caption


def _quote(caption: str) -> str:
    """Returns a caption as in a serial number: only letters, digits and hyphens are unquoted."""
    return re.sub("[_.~]", lambda found: f"%{ord(found[0]):02X}", quote(caption, safe=""))


def _read_value(term: str) -> str:
    return term.partition("=")[2]


def _make_error(text: str) -> InvalidRequest:
    example = "mnist@3/42/17?class=7&truncation=0.7"
    return make_invalid_request(
        "serial", f"{describe(text)} is not a serial number, such as {example}"
    )
