"""The plan of a data set: everything that determines its bytes, kept as imagemint.json."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import PIL
from PIL import features

from imagemint.client.extras import DISTRIBUTION
from imagemint.client.requests import Condition, Cycle, Filter
from imagemint.dataset.errors import DatasetError

PLAN_FILE = "imagemint.json"
_FORMAT_VERSION = 1
_FEWEST_DIGITS = 9
_DEFAULT_TRIES = 64  # of a filter without max_tries

FormatName: TypeAlias = Literal["webdataset", "parquet", "imagefolder", "npz"]
ImageFormat: TypeAlias = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive images of a data set, which are written together."""

    number: int
    """0 for the first shard."""
    first_index: int
    """Index of its first image."""
    count: int
    """Number of its images, 1 or more."""

    @property
    def last_index(self) -> int:
        """Index of its last image."""
        return self.first_index + self.count - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that determines the bytes of a data set."""

    model: str
    """Name of the model."""
    version: str
    """Version, a positive decimal integer."""
    variant: str
    """Variant of the model, such as `fp32` or `int8`."""
    bundle_sha256: str
    """SHA-256 of the bundle's model.onnx, which names the digests of its variants."""
    execution_provider: str
    """Execution provider; others give slightly different pixels."""
    seed: int
    """Seed, 0 to 2^64 - 1."""
    first_index: int
    """Index of the first image."""
    count: int
    """Number of images, 1 or more."""
    classes: tuple[int, ...] | Literal["random"] | None
    """Classes in turn by index; `random` for classes drawn by seed and index; None for a model
    without classes."""
    captions: Literal["examples"] | None
    """`examples` for example captions drawn by seed and index; None for a model without them."""
    truncation: float | None
    """Truncation; None for none."""
    class_labels: tuple[str, ...]
    """Label text of each class of the model; empty for a model without classes."""
    height: int
    """Rows of an image."""
    width: int
    """Columns of an image."""
    channels: int
    """1 gray or 3 RGB."""
    title: str
    """Title of the model."""
    license: str
    """Licence of the samples, from the manifest."""
    format: FormatName
    """Format of the shards."""
    image_format: ImageFormat
    """Encoding of an image; npz holds pixels and does not use it."""
    quality: int | None
    """1 to 100, for jpeg and webp; None if the format does not use it, except in older plans."""
    shard_size: int
    """Images in a shard; the last one can have fewer."""
    software: dict[str, str]
    """Versions of the libraries that determine the bytes of files, by name; with images of the
    engine in this process, also those of onnxruntime and imagemint."""
    image_filter: Filter | None = None
    """Which images to keep; None for all. `bundle_sha256` names the digest of the critic, too."""
    columns: tuple[str, ...] | None = None
    """What each image has beside class, serial and index: `text`, its caption, and its scores by
    name. None if there is nothing, and in plans of releases before 0.4, which did not keep it."""

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size)

    @property
    def image_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return self.height * self.width * self.channels

    @property
    def condition(self) -> Condition:
        """The condition of a request to a server."""
        return Cycle(self.classes) if isinstance(self.classes, tuple) else None

    def get_shard(self, number: int) -> Shard:
        """Returns a shard by its number."""
        start = number * self.shard_size
        count = min(self.shard_size, self.count - start)
        return Shard(number, self.first_index + start, count)

    def list_shards(self) -> Iterator[Shard]:
        """Yields all shards in order."""
        return map(self.get_shard, range(self.num_shards))

    def spell_index(self, index: int) -> str:
        """Returns an index as text; all of this data set have the same width and sort as text."""
        # str.zfill is faster than a nested format, and this runs for each image.
        return str(index).zfill(_count_digits(self.first_index + self.count - 1))

    def follow(self, existing: "Plan") -> Self:
        """Returns this plan, with the values of an existing plan where they change no byte of it.

        Only more tries than before are a change that an existing data set can take: they change no
        image that has passed.
        """
        changes: dict[str, Any] = {"columns": existing.columns}
        if not uses_quality(self.format, self.image_format):
            changes["quality"] = existing.quality
        if self.format == "npz":
            changes["image_format"] = existing.image_format
        if self.format == "imagefolder":  # each image has a file
            changes["shard_size"] = existing.shard_size
        if not list_other_software(existing.software, self.software):
            changes["software"] = existing.software
        mine, theirs = self.image_filter, existing.image_filter
        if mine and theirs and (not mine.max_tries or _count_tries(mine) == _count_tries(theirs)):
            changes["image_filter"] = replace(mine, max_tries=theirs.max_tries)
        return replace(self, **changes)

    def raises_tries(self, existing: "Plan") -> bool:
        """Returns whether this plan is an existing one with more tries of its filter."""
        mine, theirs = self.image_filter, existing.image_filter
        if mine is None or theirs is None or _count_tries(mine) <= _count_tries(theirs):
            return False
        raised = replace(theirs, max_tries=mine.max_tries)
        return replace(existing, image_filter=raised) == self

    def describe_difference(self, other: "Plan") -> str:
        """Returns the fields in which `other` differs, such as `seed 7, not 8`."""
        mine, theirs = _list_values(self), _list_values(other)
        return "; ".join(
            f"{name} {mine.get(name)}, not {theirs.get(name)}"
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        )

    def to_json(self) -> bytes:
        """Returns the content of imagemint.json."""
        content = {"format_version": _FORMAT_VERSION, **asdict(self)}
        for name in ("image_filter", "columns"):  # for compatibility with older plans
            if content[name] is None:
                del content[name]
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, place: str) -> Self:
        """Returns the plan in the content of imagemint.json.

        Args:
            content: the file.
            place: its name for messages.

        Raises:
            DatasetError: the content is not a plan, or a newer one.
        """
        try:
            found: dict[str, Any] = json.loads(content)
            version = found.pop("format_version")
            if version != _FORMAT_VERSION:
                raise DatasetError(
                    f"{place} has format version {version}; this imagemint reads {_FORMAT_VERSION}"
                )
            if isinstance(found["classes"], list):
                found["classes"] = tuple(found["classes"])
            found["class_labels"] = tuple(found["class_labels"])
            if "image_filter" in found:
                found["image_filter"] = Filter(**found["image_filter"])
            if "columns" in found:
                found["columns"] = tuple(found["columns"])
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{place} is not the plan of a data set: {error}") from error


def _list_values(plan: Plan) -> dict[str, Any]:
    """Returns the fields of a plan and those of its filter, if it has one, by name."""
    values = {field.name: getattr(plan, field.name) for field in fields(plan)}
    image_filter = values.pop("image_filter")
    return values | ({} if image_filter is None else asdict(image_filter))


def _count_tries(image_filter: Filter) -> int:
    return image_filter.max_tries or _DEFAULT_TRIES


@lru_cache(maxsize=8)
def _count_digits(last_index: int) -> int:
    return max(_FEWEST_DIGITS, len(str(last_index)))


def uses_quality(format_name: FormatName, image_format: ImageFormat) -> bool:
    """Returns whether the quality determines bytes."""
    return format_name != "npz" and image_format != "png"


def describe_software(format_name: FormatName) -> dict[str, str]:
    """Returns the versions of the libraries that determine the bytes of a format."""
    if format_name == "npz":
        return {"numpy": np.__version__}
    found = {"pillow": PIL.__version__, "zlib": _find_zlib_version()}
    if format_name == "parquet":
        import pyarrow as pa  # noqa: PLC0415 - only this format needs the extra

        found["pyarrow"] = pa.__version__
    return found


def list_other_software(planned: dict[str, str], found: dict[str, str]) -> list[str]:
    """Returns the libraries that have another release than in a plan.

    A library that only one of them names does not count: older plans, and those of images from a
    server, do not name the engine. Neither does imagemint itself, which promises the same pixels
    for a serial number; a plan names it for the record.

    Args:
        planned: the releases of the plan.
        found: the releases here.
    """
    others = (name for name, release in planned.items() if found.get(name, release) != release)
    return [name for name in others if name != DISTRIBUTION]


def spell_software(software: dict[str, str]) -> str:
    """Returns the releases of libraries as text."""
    return ", ".join(f"{name} {version}" for name, version in software.items())


def _find_zlib_version() -> str:
    """Returns the version of the zlib that Pillow compresses PNG files with."""
    fork = features.version_feature("zlib_ng")
    return f"ng-{fork}" if fork else str(features.version_codec("zlib"))
