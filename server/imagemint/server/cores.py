"""Counts the CPU cores that this process may use, from which thread pools take their size."""

import contextlib
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def count_usable_cores() -> int:
    """Returns the number of CPU cores that this process may use, 1 or more.

    It is the number of cores in the affinity mask, or the CPU limit of the control group if that
    is lower. A fraction of a core counts as a core. A container with a CPU limit usually has all
    cores of its machine in the mask.
    """
    cores = len(os.sched_getaffinity(0))
    limits = [limit for limit in (_read_limit(), _read_old_limit()) if limit is not None]
    return max(1, min([cores, *limits]))


def _read_limit() -> int | None:
    """Returns the limit of control groups of version 2; None for none."""
    with contextlib.suppress(OSError, ValueError):  # no such group, or the quota is "max"
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return _divide(int(quota), int(period))
    return None


def _read_old_limit() -> int | None:
    """Returns the limit of control groups of version 1; None for none."""
    with contextlib.suppress(OSError, ValueError):
        quota = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        return _divide(quota, int((_CGROUP / "cpu/cpu.cfs_period_us").read_text()))
    return None


def _divide(quota_us: int, period_us: int) -> int | None:
    """Returns the number of cores, rounded up; None if the quota sets no limit."""
    return -(-quota_us // period_us) if quota_us > 0 and period_us > 0 else None
