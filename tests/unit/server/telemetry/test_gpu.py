"""GPUs in the metrics, with an NVML that tells what a test wants."""

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from imagemint.server.telemetry.gpu import watch_devices


class FakeError(Exception):
    """NVMLError."""


class FakeNvml:
    """The module pynvml on a machine with GPUs.

    Attributes:
        silent: functions that fail.
    """

    NVMLError = FakeError

    def __init__(self, count=2, silent=()):
        self._count = count
        self.silent = set(silent)

    def __getattr__(self, name):
        answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: self._count,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: f"GPU model {handle}",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
                used=(handle + 1) * 2**30, total=80 * 2**30
            ),
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=25 * (handle + 1)),
        }

        def call(*arguments):
            if name in self.silent:
                raise FakeError("not supported")
            return answers[name](*arguments)

        return call


@pytest.fixture
def watched(monkeypatch):
    """Watches the devices of a fake; gives the registry, or None if there was nothing to watch."""

    def watch(nvml):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        registry = CollectorRegistry()
        return registry if watch_devices(registry) else None

    return watch


def value(registry, name, device):
    """A sample of one device."""
    labels = {"device": str(device), "name": f"GPU model {device}"}
    return registry.get_sample_value(f"imagemint_device_{name}", labels)


def test_every_device_is_told(watched):
    """Memory in bytes, utilisation as a share."""
    registry = watched(FakeNvml())
    assert [value(registry, "memory_used_bytes", each) for each in (0, 1)] == [2**30, 2**31]
    assert value(registry, "memory_total_bytes", 1) == 80 * 2**30
    assert [value(registry, "utilization_ratio", each) for each in (0, 1)] == [0.25, 0.5]


def test_devices_are_asked_at_each_scrape(watched):
    """What a device no longer tells is gone, and the rest stays."""
    nvml = FakeNvml()
    registry = watched(nvml)
    nvml.silent = {"nvmlDeviceGetUtilizationRates"}
    assert value(registry, "utilization_ratio", 0) is None
    assert value(registry, "memory_used_bytes", 0) == 2**30


@pytest.mark.parametrize(
    "nvml",
    [None, FakeNvml(0), FakeNvml(silent={"nvmlInit"}), FakeNvml(silent={"nvmlDeviceGetCount"})],
    ids=["no library", "no device", "no driver", "no count"],
)
def test_nothing_to_watch_is_no_failure(watched, nvml):
    """Neither library nor driver nor GPU is needed."""
    assert watched(nvml) is None


def test_real_library_has_what_is_asked():
    """The names are those of nvidia-ml-py, which fails in its own way without a driver."""
    nvml = pytest.importorskip("pynvml")
    for name in ("DeviceGetHandleByIndex", "DeviceGetName", "DeviceGetMemoryInfo"):
        assert callable(getattr(nvml, f"nvml{name}"))
    assert callable(nvml.nvmlDeviceGetUtilizationRates)
    assert watch_devices(CollectorRegistry()) in {True, False}
