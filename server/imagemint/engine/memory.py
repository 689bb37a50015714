"""How much memory there is for one more model: of the machine, and of the container in it."""

import contextlib
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")


def available_bytes() -> int | None:
    """Memory that could be allocated now without swapping; None where that is not known."""
    amounts = [_of_machine(), _left("memory.max", "memory.current")]
    amounts.append(_left("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    known = [amount for amount in amounts if amount is not None]
    return min(known, default=None)


def resident_bytes() -> int:
    """Memory that this process holds; 0 where that is not known."""
    return _field(_STATUS, "VmRSS:") or 0


def _of_machine() -> int | None:
    return _field(_MEMINFO, "MemAvailable:")


def _field(path: Path, name: str) -> int | None:
    """A line of /proc in kB, as bytes."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return 1024 * int(line.split()[1])
    return None


def _left(limit: str, used: str) -> int | None:
    """What a control group still allows, the page cache that it would drop aside."""
    with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
        most = int((_CGROUP / limit).read_text())
        return max(0, most - int((_CGROUP / used).read_text()))
    return None
