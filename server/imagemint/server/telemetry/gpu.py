"""Exports memory and utilization of the GPUs; every scrape reads them from NVML."""

import importlib
import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)

_LABELS = ("device", "name")
ResultT = TypeVar("ResultT")


def watch_devices(registry: CollectorRegistry) -> bool:
    """Adds the GPU metrics to a registry; returns whether there are any GPUs.

    Without the library nvidia-ml-py, a driver or a GPU, it adds nothing.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return False
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        _log.info("GPU metrics are not available: %s", error)
        return False
    if count:
        registry.register(DeviceCollector(nvml, count))
    return bool(count)


class DeviceCollector(Collector):
    """Collects the metrics of each visible GPU, including the usage by other processes.

    Values that a device does not report are left out; for example, MIG slices have no utilization.

    Args:
        nvml: the initialized module pynvml.
        count: number of GPUs.
    """

    def __init__(self, nvml: ModuleType, count: int) -> None:
        self._nvml: Any = nvml  # has no types
        self._devices = [
            (str(each), self._nvml.nvmlDeviceGetHandleByIndex(each)) for each in range(count)
        ]

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yields the metrics without samples, so that registration reads no device."""
        yield from self._make_families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the metrics of every device."""
        used, total, utilisation = families = self._make_families()
        for index, handle in self._devices:
            name = self._ask(self._nvml.nvmlDeviceGetName, handle)
            labels = (index, name or "")
            if (memory := self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)) is not None:
                used.add_metric(labels, memory.used)
                total.add_metric(labels, memory.total)
            if (rates := self._ask(self._nvml.nvmlDeviceGetUtilizationRates, handle)) is not None:
                utilisation.add_metric(labels, rates.gpu / 100)
        yield from families

    def _make_families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "imagemint_device_memory_used_bytes",
                "Memory of the GPU in use by all processes.",
                labels=_LABELS,
            ),
            GaugeMetricFamily(
                "imagemint_device_memory_total_bytes", "Memory of the GPU.", labels=_LABELS
            ),
            GaugeMetricFamily(
                "imagemint_device_utilization_ratio",
                "Share of the last sample period in which the GPU ran a kernel of any process.",
                labels=_LABELS,
            ),
        )

    def _ask(self, question: Callable[[Any], ResultT], handle: object) -> ResultT | None:
        try:
            return question(handle)
        except self._nvml.NVMLError:
            return None
