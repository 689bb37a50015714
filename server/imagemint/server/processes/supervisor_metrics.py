"""The /metrics of a server with several processes: what the supervisor tells of all of them."""

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

from imagemint.server.processes.worker_metrics import Totals, figures_of
from imagemint.server.telemetry.metrics import LARGEST_OVER_WORKERS, DroppedLines, add_build_info

_SUPERVISOR = "supervisor"
# The place of the supervisor among the workers.
_SUPERVISORS_NUMBER = -1


class WorkersMetrics:
    """The registry of the supervisor.

    Args:
        processes: how many workers there should be.
        refresh: asks the workers for their latest figures and passes them to `totals`.
        pids: process ids of the workers that live, by number.

    Attributes:
        totals: the figures of the workers.
        ready: gauge of the workers that take calls.
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
            "imagemint_workers", "Worker processes that there should be.", registry=self.registry
        ).set(processes)
        self.ready = Gauge(
            "imagemint_workers_ready", "Worker processes that take calls.", registry=self.registry
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
    """The totals, brought up to date first."""

    def __init__(self, totals: Totals, refresh: Callable[[], None]) -> None:
        self._totals = totals
        self._refresh = refresh

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        # What the supervisor counts under the same names as its workers.
        self._totals.update(_SUPERVISORS_NUMBER, figures_of(DroppedLines()))
        return self._totals.collect()


class _Processes(Collector):
    """What each process takes, the supervisor's included."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        named = {_SUPERVISOR: os.getpid()} | {str(n): pid for n, pid in self._pids().items()}
        for name, pid in named.items():
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc] # the default binds the loop's variable
                into = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                into.samples += [
                    each._replace(labels=each.labels | {"worker": name}) for each in family.samples
                ]
        return merged.values()
