"""Tests of the available memory, which is that of the machine or of the control group."""

import pytest

from imagemint.engine import memory

MEGABYTE = 10**6
# Limit, usage and statistics of each version of control groups. In version 1, fields without a
# prefix leave out the groups below.
VERSIONS = {
    "v2": ("memory.max", "memory.current", "memory.stat", ""),
    "v1": (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_",
    ),
}


@pytest.fixture(params=VERSIONS)
def write_group(request, tmp_path, monkeypatch):
    """A function that writes limit, usage and page cache of a control group in MB."""
    limit, used, statistics, prefix = VERSIONS[request.param]
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")

    def write(most, now, inactive=None, active=0):
        (tmp_path / limit).write_text(f"{most}\n" if most == "max" else f"{most * MEGABYTE}\n")
        (tmp_path / used).write_text(f"{now * MEGABYTE}\n")
        if inactive is not None:
            (tmp_path / statistics).write_text(
                f"{prefix}anon 5\n{prefix}inactive_file {inactive * MEGABYTE}\n"
                f"{prefix}active_file {active * MEGABYTE}\n{prefix}shmem 7\n"
            )

    return write


def test_available_memory_respects_the_control_group(write_group):
    """It is the smaller one of the machine's and the control group's."""
    write_group(3000, 1000)
    assert memory.measure_available_bytes() == 2000 * MEGABYTE
    write_group("max", 1000)
    assert memory.measure_available_bytes() == 8_000_000 * 1024


def test_page_cache_is_available(write_group):
    """Files that were read fill the limit in time, and the kernel drops them if needed."""
    write_group(3000, 2900, inactive=1500, active=400)
    assert memory.measure_available_bytes() == 2000 * MEGABYTE


def test_available_memory_is_at_most_the_limit_and_not_negative(write_group):
    """Usage and page cache are read one after the other, and usage may exceed the limit."""
    write_group(3000, 1000, inactive=1100)
    assert memory.measure_available_bytes() == 3000 * MEGABYTE
    write_group(3000, 3200, inactive=100)
    assert memory.measure_available_bytes() == 0
