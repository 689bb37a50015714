"""The bounds of a command's numeric settings, as its schema states them.

Imported by name: pyproject.toml puts tests/ on the path.
"""

import math


def numbers_of(settings):
    """The numeric settings of a class by name: (least, most), None where there is no bound."""
    found = {}
    for name, field in settings.model_json_schema(by_alias=False)["properties"].items():
        for listed in field.get("anyOf", [field]):
            kind = listed.get("items", listed)
            if kind.get("type") in ("integer", "number"):
                found[name] = (_bound(kind, "inimum", 1), _bound(kind, "aximum", -1))
    return found


def _bound(kind, name, inwards):
    """The outermost value that is accepted; of an exclusive bound the next one inside."""
    inclusive = kind.get("m" + name)
    exclusive = kind.get("exclusiveM" + name)
    if exclusive is None:
        return inclusive
    if kind["type"] == "integer":
        return exclusive + inwards
    return math.nextafter(exclusive, inwards * math.inf)


def refused_values(least, most):
    """Values just outside, and those that are no number."""
    outside = [
        limit + step if isinstance(limit, int) else math.nextafter(limit, step * math.inf)
        for limit, step in ((least, -1), (most, 1))
    ]
    return [*outside, math.nan, math.inf, -math.inf, 10**30, -(10**30)]
