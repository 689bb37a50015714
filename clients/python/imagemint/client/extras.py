"""Which extra to install for a module that is missing, as the distribution's metadata tells it."""

import re
from collections.abc import Iterable
from importlib import metadata
from itertools import takewhile

DISTRIBUTION = "imagemint"

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?:\[(?P<extras>[^\]]*)\])?")
_EXTRA = re.compile(r"""extra\s*==\s*['"](?P<extra>[^'"]+)['"]""")


class MissingExtra(Exception):  # noqa: N818 - it names what is missing
    """A command needs an extra that is not installed; the message says which."""


def extra_of(module: str, part: str, requirements: Iterable[str] | None = None) -> str | None:
    """The extra that brings `module`; None if none does.

    Where several do, the one whose name is most like that of the part of imagemint that wants it,
    as `server` is to `imagemint.server` and `train` to `imagemint.training`; then the smallest.

    Args:
        module: the missing module, such as `onnxruntime` or `torch.utils`.
        part: the module that wants it, such as `imagemint.server.command`.
        requirements: as in the metadata; None for those of the installed distribution.
    """
    if requirements is None:
        requirements = metadata.requires(DISTRIBUTION) or ()
    extras = _extras(requirements)
    wanted = module.partition(".")[0]
    word = part.split(".")[1] if "." in part else part
    for fits in (_same, _alike):
        found = [name for name, brings in extras.items() if any(fits(wanted, r) for r in brings)]
        if found:
            return max(found, key=lambda name: (_common(name, word), -len(extras[name])))
    return None


def _extras(requirements: Iterable[str]) -> dict[str, set[str]]:
    """The distributions that each extra brings, also by way of other extras of ours."""
    brings: dict[str, set[str]] = {}
    includes: dict[str, set[str]] = {}
    for line in requirements:
        requirement, _, marker = line.partition(";")
        name = _REQUIREMENT.match(requirement)
        extra = _EXTRA.search(marker)
        if not name or not extra:
            continue
        own = _normal(extra["extra"])
        brings.setdefault(own, set())
        includes.setdefault(own, set())
        if _normal(name["name"]) == DISTRIBUTION:
            included = (name["extras"] or "").split(",")
            includes[own].update(_normal(each.strip()) for each in included)
        else:
            brings[own].add(_normal(name["name"]))
    for own in brings:
        reached: set[str] = set()
        waiting = {own}
        while waiting:
            each = waiting.pop()
            reached.add(each)
            waiting |= includes.get(each, set()) - reached
        brings[own] = set().union(*(brings[each] for each in reached if each in brings))
    return brings


def _same(module: str, distribution: str) -> bool:
    return _normal(module) == distribution


def _alike(module: str, distribution: str) -> bool:
    """Whether the words of one begin those of the other: grpc_health, grpcio-health-checking."""
    pairs = zip(_normal(module).split("-"), distribution.split("-"), strict=False)
    return module.count("_") <= distribution.count("-") and all(
        longer.startswith(shorter) for shorter, longer in pairs
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _common(one: str, other: str) -> int:
    """Length of the beginning that both have."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
