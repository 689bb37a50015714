"""What all workers have counted, as one: the /metrics of a server with several processes.

Every worker writes its figures to files of its own, mapped into its memory (prometheus-client's
multi-process mode), which outlive it: what a worker has counted stays counted, however it died. The
files go by the number of the worker and not by its process id, so that its successor counts on.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from imagemint.server.metrics import add_build_info

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SUPERVISOR = "supervisor"


class WorkersMetrics:
    """The registry of the supervisor.

    Args:
        directory: where the workers keep their files.
        processes: how many workers there should be.
        refresh: has the workers write what is not written as it changes; may fail to.
        pids: process ids of the workers that live, by number.
    """

    def __init__(
        self,
        directory: Path,
        processes: int,
        refresh: Callable[[], None],
        pids: Callable[[], Mapping[int, int]],
    ) -> None:
        self.registry = CollectorRegistry()
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
        self.registry.register(_Merged(directory, refresh))
        self.registry.register(_Processes(pids))


class _Merged(Collector):
    """The workers' figures, added up."""

    def __init__(self, directory: Path, refresh: Callable[[], None]) -> None:
        self._directory = directory
        self._refresh = refresh

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        # Without a registry it registers nowhere; the package has no types for that.
        files = MultiProcessCollector(None, path=str(self._directory))  # type: ignore[no-untyped-call]
        families = files.collect()  # type: ignore[no-untyped-call] # likewise
        for family in sorted(families, key=lambda each: each.name):
            # What a worker has dropped is NaN in its file, for nothing can be removed from it.
            family.samples = [each for each in family.samples if not math.isnan(each.value)]
            yield family


class _Processes(Collector):
    """What each process takes, the supervisor's included."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids

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


def forget_gauges(directory: Path, number: int) -> None:
    """Drops what only a living worker has, such as calls in its hands; its counts stay."""
    mark_process_dead(number, str(directory))  # type: ignore[no-untyped-call] # it has no types


def remove_files(directory: Path, number: int) -> None:
    """Removes the files of a worker, and with the last of them the directory and what all shared.

    For a worker whose supervisor died; others may still be using theirs.
    """
    for path in directory.glob(f"*_{number}.db"):
        path.unlink(missing_ok=True)
    if not any(directory.glob("*.db")):
        shutil.rmtree(directory, ignore_errors=True)  # another may be at it too
