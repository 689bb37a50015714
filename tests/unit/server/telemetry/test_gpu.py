"""Tests of the GPU metrics with a fake NVML."""

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from imagemint.server.telemetry.gpu import watch_devices


class FakeError(Exception):
    """A fake of NVMLError."""


class FakeNvml:
    """A fake of the module pynvml on a machine with GPUs.

    Attribute `silent` has the names of functions that fail.
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
def watch_fake_devices(monkeypatch):
    """A function that watches fake devices. It returns the registry, or None without devices."""

    def watch(nvml):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        registry = CollectorRegistry()
        return registry if watch_devices(registry) else None

    return watch


def read_sample(registry, name, device):
    """Returns a sample of one device."""
    labels = {"device": str(device), "name": f"GPU model {device}"}
    return registry.get_sample_value(f"imagemint_device_{name}", labels)


def test_every_device_is_exported(watch_fake_devices):
    """Memory is in bytes, and utilization is a ratio."""
    registry = watch_fake_devices(FakeNvml())
    assert [read_sample(registry, "memory_used_bytes", each) for each in (0, 1)] == [2**30, 2**31]
    assert read_sample(registry, "memory_total_bytes", 1) == 80 * 2**30
    assert [read_sample(registry, "utilization_ratio", each) for each in (0, 1)] == [0.25, 0.5]


def test_devices_are_read_at_each_scrape(watch_fake_devices):
    """A value that a device no longer reports is removed, and the others stay."""
    nvml = FakeNvml()
    registry = watch_fake_devices(nvml)
    nvml.silent = {"nvmlDeviceGetUtilizationRates"}
    assert read_sample(registry, "utilization_ratio", 0) is None
    assert read_sample(registry, "memory_used_bytes", 0) == 2**30


@pytest.mark.parametrize(
    "nvml",
    [None, FakeNvml(0), FakeNvml(silent={"nvmlInit"}), FakeNvml(silent={"nvmlDeviceGetCount"})],
    ids=["no library", "no device", "no driver", "no count"],
)
def test_missing_gpu_is_no_failure(watch_fake_devices, nvml):
    """The metrics need neither the library nor a driver nor a GPU."""
    assert watch_fake_devices(nvml) is None


def test_real_library_has_the_functions():
    """The names are those of nvidia-ml-py, which raises NVMLError without a driver."""
    nvml = pytest.importorskip("pynvml")
    for name in ("DeviceGetHandleByIndex", "DeviceGetName", "DeviceGetMemoryInfo"):
        assert callable(getattr(nvml, f"nvml{name}"))
    assert callable(nvml.nvmlDeviceGetUtilizationRates)
    assert watch_devices(CollectorRegistry()) in {True, False}
