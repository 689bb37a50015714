"""Reads the available memory of the machine and of the container."""

import contextlib
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")


def measure_available_bytes() -> int | None:
    """Returns the memory in bytes that can be allocated without swapping; None if unknown."""
    amounts = [_read_machine(), _read_unused("memory.max", "memory.current")]
    amounts.append(_read_unused("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
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


def _read_unused(limit: str, used: str) -> int | None:
    """Returns the unused memory of the control group; its page cache counts as used."""
    with contextlib.suppress(OSError, ValueError):  # no control group, or the limit is "max"
        most = int((_CGROUP / limit).read_text())
        return max(0, most - int((_CGROUP / used).read_text()))
    return None
