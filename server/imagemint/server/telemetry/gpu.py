"""Memory and utilisation of the GPUs, asked of NVML whenever Prometheus asks."""

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
    """Adds the GPUs to what is scraped, and tells whether there are any to add.

    There are none without the library nvidia-ml-py, without a driver, or without a GPU.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return False
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        _log.info("no GPU is watched: %s", error)
        return False
    if count:
        registry.register(DeviceCollector(nvml, count))
    return bool(count)


class DeviceCollector(Collector):
    """What NVML says of each GPU that this process may see, whoever uses it.

    A figure that a device does not tell (parts of a GPU, for one, have no utilisation) is left out.

    Args:
        nvml: the module pynvml, initialised.
        count: GPUs.
    """

    def __init__(self, nvml: ModuleType, count: int) -> None:
        self._nvml: Any = nvml  # has no types
        self._devices = [
            (str(each), self._nvml.nvmlDeviceGetHandleByIndex(each)) for each in range(count)
        ]

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without samples, so that registering asks no device."""
        yield from self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Asks every device."""
        used, total, utilisation = families = self._families()
        for index, handle in self._devices:
            name = self._asked(self._nvml.nvmlDeviceGetName, handle)
            labels = (index, name or "")
            if (memory := self._asked(self._nvml.nvmlDeviceGetMemoryInfo, handle)) is not None:
                used.add_metric(labels, memory.used)
                total.add_metric(labels, memory.total)
            if (rates := self._asked(self._nvml.nvmlDeviceGetUtilizationRates, handle)) is not None:
                utilisation.add_metric(labels, rates.gpu / 100)
        yield from families

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "imagemint_device_memory_used_bytes",
                "Memory of the GPU in use, by whatever process.",
                labels=_LABELS,
            ),
            GaugeMetricFamily(
                "imagemint_device_memory_total_bytes", "Memory of the GPU.", labels=_LABELS
            ),
            GaugeMetricFamily(
                "imagemint_device_utilization_ratio",
                "Share of the last moment in which the GPU ran a kernel, by whatever process.",
                labels=_LABELS,
            ),
        )

    def _asked(self, question: Callable[[Any], ResultT], handle: object) -> ResultT | None:
        try:
            return question(handle)
        except self._nvml.NVMLError:
            return None
