"""Tests of the number of CPU cores, which a container may limit."""

import pytest

from imagemint.server import cores


@pytest.fixture
def group(tmp_path, monkeypatch):
    """The folder of the control group, on a machine of 16 cores."""
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cpu").mkdir()
    return tmp_path


def test_machine_without_limit_has_all_cores(group):
    """There may be no control group, or one without a limit."""
    assert cores.count_usable_cores() == 16
    (group / "cpu.max").write_text("max 100000\n")
    (group / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores.count_usable_cores() == 16


@pytest.mark.parametrize(
    ("quota_us", "number"), [(400_000, 4), (150_000, 2), (20_000, 1), (6_400_000, 16)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_limit_of_the_control_group_applies(group, version, quota_us, number):
    """A fraction counts as a core. The affinity mask applies too."""
    if version == 2:
        (group / "cpu.max").write_text(f"{quota_us} 100000\n")
    else:
        (group / "cpu/cpu.cfs_quota_us").write_text(f"{quota_us}\n")
        (group / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores.count_usable_cores() == number


def test_affinity_mask_applies(group, monkeypatch):
    """A process that is pinned to fewer cores than the limit has these."""
    (group / "cpu.max").write_text("400000 100000\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    assert cores.count_usable_cores() == 1
