"""Functions for the limits of a command's numeric settings, from its schema.

Imported by name: pyproject.toml puts tests/ on the path.
"""

import math


def numbers_of(settings):
    """Returns the numeric settings of a class by name: (minimum, maximum), or None."""
    found = {}
    for name, field in settings.model_json_schema(by_alias=False)["properties"].items():
        for listed in field.get("anyOf", [field]):
            kind = listed.get("items", listed)
            if kind.get("type") in ("integer", "number"):
                found[name] = (_bound(kind, "inimum", 1), _bound(kind, "aximum", -1))
    return found


def _bound(kind, name, inwards):
    """Returns the outermost value that is accepted. An exclusive limit has the next one inside."""
    inclusive = kind.get("m" + name)
    exclusive = kind.get("exclusiveM" + name)
    if exclusive is None:
        return inclusive
    if kind["type"] == "integer":
        return exclusive + inwards
    return math.nextafter(exclusive, inwards * math.inf)


def refused_values(least, most):
    """Returns values just outside the limits, and values that are no number."""
    outside = [
        limit + step if isinstance(limit, int) else math.nextafter(limit, step * math.inf)
        for limit, step in ((least, -1), (most, 1))
    ]
    return [*outside, math.nan, math.inf, -math.inf, 10**30, -(10**30)]
