"""The requests of a load test: several kinds, each with a share of the calls."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imagemint.client.arguments import INT32_MAX, UINT64_MAX
from imagemint.client.requests import Priority
from imagemint.client.translation import Fit

_LOSSY = ("jpeg", "webp")


class MixError(ValueError):
    """A mix of requests is invalid; the message names the part and the fault."""


class RequestKind(BaseModel):
    """One kind of request."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    count: int = Field(1, ge=1, le=UINT64_MAX)
    """Images in one call, or in all chunks of a stream together."""
    weight: float = Field(1.0, gt=0, le=10**9)
    """Share of the calls, relative to the weights of the others."""
    class_: str | None = Field(None, alias="class")
    """Class by index or label. `balanced` takes all in turn. Default: the server draws."""
    caption: str | None = None
    """Caption for a text-to-image model. In --mix, write `_` for a space. Default: the server
    draws one of the model's examples."""
    format: Literal["raw", "png", "jpeg", "webp"] = "raw"
    """Format of the images."""
    quality: int | None = Field(None, ge=1, le=100)
    """Quality of JPEG and WebP. Default: the server's choice."""
    truncation: float | None = None
    """Truncation within the range of the model."""
    stream: bool = False
    """A stream of chunks instead of one answer."""
    chunk: int | None = Field(None, ge=1, le=INT32_MAX)
    """Images in a chunk of the stream. Default: the server's choice."""
    priority: Priority = "normal"
    """Priority in the server's queue."""
    translate: bool = False
    """Translations of `source` instead of generated images."""
    source: Path | None = None
    """PNG, JPEG or WebP to translate, `count` times in one call."""
    fit: Fit = "refuse"
    """What happens to a source of a size that the model does not take."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.chunk is not None and not self.stream:
            raise ValueError("chunk needs stream")
        if self.caption is not None and self.class_ is not None:
            raise ValueError("class and caption exclude each other")
        if self.quality is not None and self.format not in _LOSSY:
            raise ValueError(f"quality needs format {' or '.join(_LOSSY)}")
        if self.translate != (self.source is not None):
            raise ValueError("set translate and source=FILE together")
        if self.translate and self.stream:
            raise ValueError("the load test has no streams of translations")
        if self.source is not None and not self.source.is_file():
            raise ValueError(f"{self.source} is not a file")
        return self

    def __str__(self) -> str:
        """Returns the form that --mix takes, without the weight."""
        given = self.model_dump(by_alias=True, exclude_defaults=True, exclude={"count", "weight"})
        if self.caption is not None:
            given["caption"] = self.caption.replace(" ", "_")
        words = (key if value is True else f"{key}={value}" for key, value in given.items())
        return " ".join((f"count={self.count}", *words))


@dataclass(frozen=True, slots=True)
class Mix:
    """Kinds of requests and their shares."""

    kinds: tuple[RequestKind, ...]

    @property
    def shares(self) -> list[float]:
        """Share of the calls of each kind; they sum to 1."""
        total = math.fsum(kind.weight for kind in self.kinds)
        return [kind.weight / total for kind in self.kinds]


def parse_mix(text: str) -> Mix:
    """Parses a mix.

    Args:
        text: kinds of requests with commas between them, each some `key=value` with spaces between
            them and a weight after a colon, such as `count=1:80, count=64 format=png:20`; the keys
            are the fields of `RequestKind`, and a key alone is true. Or the path of a TOML file
            (`.toml`) with a table `[[request]]` for each kind.

    Raises:
        MixError: the text is not a mix, or the file cannot be read.
    """
    if text.endswith(".toml"):
        return _read_file(Path(text))
    return Mix(tuple(_parse_kind(part.strip()) for part in text.split(",")))


def _parse_kind(part: str) -> RequestKind:
    words, colon, weight = part.rpartition(":")
    values: dict[str, Any] = {"weight": weight.strip()} if colon else {}
    for word in (words if colon else part).split():
        key, equals, value = word.partition("=")
        if key in values:
            raise MixError(f"{part!r}: {key} is given twice")
        values[key] = value if equals else True
    if not values.keys() - {"weight"}:
        raise MixError(
            f"{part!r} has no key of a request; write something like 'count=64 format=png:20'"
        )
    return _validate(repr(part), values)


def _read_file(path: Path) -> Mix:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MixError(f"{path}: {error}") from None
    tables = content.pop("request", None)
    if content or not isinstance(tables, list) or not tables:
        raise MixError(f"{path}: expected tables [[request]], and nothing else")
    return Mix(
        tuple(_validate(f"{path}, request {n}", table) for n, table in enumerate(tables, start=1))
    )


def _validate(place: str, values: Any) -> RequestKind:  # noqa: ANN401 - of a file
    try:
        return RequestKind.model_validate(values)
    except ValidationError as error:
        faults = (
            ": ".join((*map(str, each["loc"]), each["msg"].removeprefix("Value error, ")))
            for each in error.errors(include_url=False)
        )
        raise MixError(f"{place}: {'; '.join(faults)}") from None
