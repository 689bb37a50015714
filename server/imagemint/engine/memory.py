"""Reads the available memory of the machine and of the container."""

import contextlib
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")


class _Controller(NamedTuple):
    """Files of a control group, and the fields of `statistics` with its page cache."""

    limit: str
    used: str
    statistics: str
    cache: frozenset[str]


_CONTROLLERS = (
    _Controller(
        "memory.max", "memory.current", "memory.stat", frozenset({"inactive_file", "active_file"})
    ),
    _Controller(
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        frozenset({"total_inactive_file", "total_active_file"}),
    ),
)


def measure_available_bytes() -> int | None:
    """Returns the memory in bytes that can be allocated without swapping; None if unknown."""
    amounts = [_read_machine(), *map(_read_unused, _CONTROLLERS)]
    known = [amount for amount in amounts if amount is not None]
    return min(known, default=None)


def measure_resident_bytes() -> int:
    """Returns the resident memory of this process in bytes; 0 if unknown."""
    return _read_field(_STATUS, "VmRSS:") or 0


def _read_machine() -> int | None:
    return _read_field(_MEMINFO, "MemAvailable:")


def _read_field(path: Path, name: str) -> int | None:
    """Returns a value in kB of a /proc file, in bytes; None if it is missing."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return 1024 * int(line.split()[1])
    return None


def _read_unused(controller: _Controller) -> int | None:
    """Returns the memory of the control group that is unused or page cache; None if unknown.

    The kernel counts the page cache as used. It fills the group's limit with files that were read,
    and drops them when memory is needed.
    """
    with contextlib.suppress(OSError, ValueError):  # no control group, or the limit is "max"
        most = int((_CGROUP / controller.limit).read_text())
        used = int((_CGROUP / controller.used).read_text())
        # The two files are not read at the same time, so they may disagree.
        return max(0, most - max(0, used - _read_cache(controller)))
    return None


def _read_cache(controller: _Controller) -> int:
    """Returns the page cache of the control group in bytes; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError):
        lines = (_CGROUP / controller.statistics).read_text().splitlines()
        fields = (line.split(maxsplit=1) for line in lines)
        return sum(int(value) for name, value in fields if name in controller.cache)
    return 0
