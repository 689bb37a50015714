"""The metrics of each worker as plain data, and their totals over all workers.

Workers count in their own memory and send their metrics to the supervisor: at every scrape, every
few seconds, and when they exit. They share no files, so a full disk or a torn file cannot break the
metrics. A killed worker loses what it counted since its last report.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from prometheus_client import Metric
from prometheus_client.registry import Collector
from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, _Labels]
_ADDED_TYPES = frozenset({"counter", "histogram"})


def _to_pairs(values: dict[_Key, float]) -> list[tuple[_Key, float]]:
    """Returns the items of the dictionary, whose keys JSON does not allow."""
    return list(values.items())


def _from_pairs(pairs: Any) -> Any:  # noqa: ANN401 - not validated yet
    return {(name, tuple(map(tuple, labels))): value for (name, labels), value in pairs}


@dataclass
class Family:
    """One metric of one worker."""

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")

    name: str
    documentation: str
    type: str
    values: Annotated[
        dict[_Key, float], PlainSerializer(_to_pairs), BeforeValidator(_from_pairs)
    ] = field(default_factory=dict)
    """Values by name and labels of the sample."""

    @property
    def counts(self) -> bool:
        """Whether the values only grow, so that they add up over workers and their successors."""
        return self.type in _ADDED_TYPES


Figures = list[Family]
_FIGURES = TypeAdapter(Figures)


def dump_figures(figures: Figures) -> str:
    """Returns metrics as JSON."""
    return _FIGURES.dump_json(figures).decode()


def parse_figures(text: str) -> Figures:
    """Returns the metrics of `dump_figures`."""
    return _FIGURES.validate_json(text)


def collect_figures(collector: Collector) -> Figures:
    """Returns the current metrics of a registry; thread-safe."""
    found: dict[str, Family] = {}
    for metric in collector.collect():
        family = found.setdefault(
            metric.name, Family(metric.name, metric.documentation, metric.type)
        )
        for sample in metric.samples:
            if not sample.name.endswith("_created"):  # times cannot be summed
                family.values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return list(found.values())


class Totals(Collector):
    """The totals of the metrics of all workers; thread-safe.

    The counts of a worker stay in the totals after it died. Series that a living worker no longer
    reports, such as those of an unloaded version, are removed once no worker reports them.

    Args:
        largest: names of the gauges of which the largest value counts; all others are summed.
    """

    def __init__(self, largest: Iterable[str] = ()) -> None:
        self._largest = frozenset(largest)
        self._lock = threading.Lock()
        self._living: dict[int, Figures] = {}
        self._past: dict[str, Family] = {}
        self._forgotten: dict[str, set[_Key]] = {}

    def update(self, worker: int, figures: Figures) -> None:
        """Stores the latest metrics of a living worker."""
        with self._lock:
            self._forget(self._living.get(worker, []), figures)
            self._living[worker] = figures
            self._drop_forgotten()

    def retire(self, worker: int) -> None:
        """Keeps the counts of a dead worker, and drops its gauges."""
        with self._lock:
            for family in self._living.pop(worker, []):
                if family.counts:
                    self._add_past(family, family.values)
            self._drop_forgotten()

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics in order of their names."""
        with self._lock:
            totals = self._compute_totals()
        for name in sorted(totals):
            family = totals[name]
            metric = Metric(name, family.documentation, family.type)
            for (sample, labels), value in family.values.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, because the metrics depend on the workers."""
        return ()

    def _compute_totals(self) -> Mapping[str, Family]:
        totals: dict[str, Family] = {}
        for figures in (list(self._past.values()), *self._living.values()):
            for family in figures:
                total = totals.setdefault(
                    family.name, Family(family.name, family.documentation, family.type)
                )
                merge = max if family.name in self._largest else _sum
                for key, value in family.values.items():
                    before = total.values.get(key)
                    total.values[key] = value if before is None else merge(before, value)
        return totals

    def _add_past(self, family: Family, values: Mapping[_Key, float]) -> None:
        past = self._past.setdefault(
            family.name, Family(family.name, family.documentation, family.type)
        )
        for key, value in values.items():
            past.values[key] = past.values.get(key, 0.0) + value

    def _forget(self, old: Figures, new: Figures) -> None:
        """Keeps counts that a worker no longer reports until no worker reports them.

        The total must not decrease before: Prometheus takes a decrease for a counter reset, and
        would count the whole value again.
        """
        reported = {family.name: family.values for family in new}
        for family in old:
            dropped = family.values.keys() - reported.get(family.name, {}).keys()
            if dropped and family.counts:
                self._add_past(family, {key: family.values[key] for key in dropped})
                self._forgotten.setdefault(family.name, set()).update(dropped)

    def _drop_forgotten(self) -> None:
        for name, keys in self._forgotten.items():
            families = [
                each for all_ in self._living.values() for each in all_ if each.name == name
            ]
            for key in [
                key for key in keys if not any(key in family.values for family in families)
            ]:
                keys.discard(key)
                self._past[name].values.pop(key, None)


def _sum(one: float, other: float) -> float:
    return one + other
