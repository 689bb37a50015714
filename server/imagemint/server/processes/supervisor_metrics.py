"""The metrics that the supervisor exports for a server with several processes."""

import os
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.registry import Collector

from imagemint.server.processes.worker_metrics import Totals, collect_figures
from imagemint.server.telemetry.metrics import (
    LARGEST_OVER_WORKERS,
    DroppedLines,
    add_build_info,
    add_serving,
)

_SUPERVISOR = "supervisor"
# Identifies the supervisor among the workers.
_SUPERVISORS_NUMBER = -1


class WorkersMetrics:
    """The registry of the supervisor.

    Args:
        processes: the configured number of workers.
        refresh: reads the latest metrics of the workers and passes them to `totals`.
        pids: returns the process ids of the living workers, by number.

    Attributes:
        totals: the metrics of the workers, summed up.
        ready: gauge of the workers that accept calls.
        restarts: counter of workers that died and were replaced.
    """

    def __init__(
        self,
        processes: int,
        refresh: Callable[[], None],
        pids: Callable[[], Mapping[int, int]],
    ) -> None:
        self.registry = CollectorRegistry()
        self.totals = Totals(LARGEST_OVER_WORKERS)
        Gauge(
            "imagemint_workers", "Configured number of worker processes.", registry=self.registry
        ).set(processes)
        self.ready = Gauge(
            "imagemint_workers_ready", "Worker processes that accept calls.", registry=self.registry
        )
        self.restarts = Counter(
            "imagemint_worker_restarts",
            "Worker processes that died and were replaced.",
            ["worker"],
            registry=self.registry,
        )
        for number in range(processes):
            self.restarts.labels(str(number))
        add_build_info(self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_Refreshed(self.totals, refresh))
        self.registry.register(_Processes(pids))


class _Refreshed(Collector):
    """Collects the totals after it refreshed them."""

    def __init__(self, totals: Totals, refresh: Callable[[], None]) -> None:
        self._totals = totals
        self._refresh = refresh
        self._own = CollectorRegistry()
        self._own.register(DroppedLines())
        # Without a worker nobody else exports it, and an alert on a missing series does not fire.
        add_serving(self._own)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        # The supervisor has these under the same names as its workers.
        self._totals.update(_SUPERVISORS_NUMBER, collect_figures(self._own))
        return self._totals.collect()


class _Processes(Collector):
    """Collects the resource usage of each process, including the supervisor."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        pids_by_name = {_SUPERVISOR: os.getpid()} | {str(n): pid for n, pid in self._pids().items()}
        for name, pid in pids_by_name.items():
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc] # the default binds the loop's variable
                metric = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                metric.samples += [
                    sample._replace(labels=sample.labels | {"worker": name})
                    for sample in family.samples
                ]
        return merged.values()
