"""Chooses the media type of an answer from the header `Accept` (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class _Range(NamedTuple):
    """One range of the header, such as `image/*;q=0.8`."""

    kind: str
    weight: float


def choose_media_type(accept: str, offered: Sequence[str]) -> str | None:
    """Returns the media type that a caller prefers.

    The highest weight counts. Among types of one weight, that of the first range in the header
    does, and among those of one range, the first one offered. A caller that accepts none of the
    types gets the first one that it does not exclude: most programs that send only `text/html`,
    for example, can still read JSON.

    Args:
        accept: the header; several lines are joined by commas. Empty: any type is acceptable.
        offered: media types that are possible, the default first.

    Returns:
        One of `offered`; None if the caller excludes each of them with the weight 0.
    """
    ranges = _parse(accept)
    ranked = []
    excluded = set()
    for place, media_type in enumerate(offered):
        at = _find(ranges, media_type)
        if at is None:
            continue
        if ranges[at].weight > 0:
            ranked.append((-ranges[at].weight, at, place, media_type))
        else:
            excluded.add(media_type)
    if ranked:
        return min(ranked)[-1]
    return next((each for each in offered if each not in excluded), None)


def parse_media_type(header: str) -> str:
    """Returns the media type of a `Content-Type` header in lower case, without parameters."""
    return header.partition(";")[0].strip().lower()


def _parse(accept: str) -> list[_Range]:
    """Returns the ranges of a header, without those whose weight is malformed."""
    ranges = []
    for part in accept.split(","):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        pairs = [parameter.split("=", 1) for parameter in parameters if "=" in parameter]
        weights = [value.strip() for name, value in pairs if name.strip() == "q"]
        if kind and all(_WEIGHT.fullmatch(weight) for weight in weights):
            ranges.append(_Range(kind, float(weights[0]) if weights else 1.0))
    return ranges


def _find(ranges: Sequence[_Range], media_type: str) -> int | None:
    """Returns the position of the most specific range of a media type; None without one."""
    for kind in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        for at, media_range in enumerate(ranges):
            if media_range.kind == kind:
                return at
    return None
