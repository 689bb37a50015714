"""The report, as lines of a table and as JSON; docs/performance.md describes the schema."""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from imagemint.bench.client_cost import ClientCost
from imagemint.bench.counts import Counts
from imagemint.bench.knee import Bound
from imagemint.bench.latencies import Latencies
from imagemint.bench.load import Closed, Load
from imagemint.bench.mix import RequestKind
from imagemint.bench.point import Point
from imagemint.client.extras import DISTRIBUTION

SCHEMA = "imagemint.bench/1"
"""Name and version of the JSON. The number grows with every incompatible change."""

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
_HEAD = (
    *("load", "offered/s", "images/s", "calls/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"),
    *("max ms", "shed", "failed", "client ms/call", "busy"),
)
_FIRST, _OTHER = 24, 9


@dataclass
class Report:
    """A complete or aborted run of the load test."""

    settings: dict[str, Any]
    """The settings, without secrets."""
    points: list[Point] = field(default_factory=list)
    """The points in the order of measurement, without those whose limit was the client."""
    bound: Bound | None = None
    """The conditions for a load to hold, if a knee was searched."""
    knee: Point | None = None
    """The knee, if one was found."""
    aborted: Point | None = None
    """The point that ended the run because the client was its limit."""

    def to_document(self) -> dict[str, Any]:
        """Returns the JSON document."""
        return {
            "schema": SCHEMA,
            "imagemint": metadata.version(DISTRIBUTION),
            "machine": describe_machine(),
            "settings": self.settings,
            "points": [_describe_point(point) for point in self.points],
            "bound": self.bound and asdict(self.bound),
            "knee": self.knee and _describe_point(self.knee),
            "aborted": self.aborted
            and {
                "load": _describe_load(self.aborted.load),
                "why": self.aborted.client_limit,
                "clients": [_describe_effort(effort) for effort in self.aborted.efforts],
            },
        }


def describe_machine() -> dict[str, Any]:
    """Returns a description of the client's machine."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": found[1] if found else platform.processor(),
        "cores": cores,
        "python": platform.python_version(),
    }


def format_head() -> str:
    """Returns the first line of the table."""
    return _format_line(_HEAD)


def format_rows(point: Point) -> Iterator[str]:
    """Yields the lines of one point: the sum, each kind of a mix of several, and first chunks."""
    tally, offered = point.sum, point.offered_images_per_s
    busy = max((effort.busy for effort in point.efforts), default=0.0)
    yield _format_line(
        (
            str(point.load),
            "-" if offered is None else f"{offered:.1f}",
            *_format_counts(tally, point.elapsed_s),
            _format_number(point.client_ms_per_call, 3),
            f"{busy:.0%}",
        )
    )
    for request_kind, tally in zip(point.mix.kinds, point.kinds, strict=True):
        if len(point.kinds) > 1:
            yield _format_line((f"  {request_kind}", "", *_format_counts(tally, point.elapsed_s)))
        if request_kind.stream:
            yield _format_line(("  first chunk", "", "", "", *_format_spread(tally.first_chunk)))


def _format_counts(tally: Counts, elapsed_s: float) -> tuple[str, ...]:
    return (
        f"{tally.images / elapsed_s:.1f}",
        f"{tally.calls / elapsed_s:.1f}",
        *_format_spread(tally.latency),
        str(tally.shed.total()),
        str(tally.failed.total()),
    )


def _format_spread(latencies: Latencies) -> tuple[str, ...]:
    return tuple(_format_number(latencies.compute_quantile_ms(q), 2) for q in _QUANTILES.values())


def _format_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _format_line(cells: Sequence[str]) -> str:
    widths = [_FIRST, *(max(_OTHER, len(name)) for name in _HEAD[1:])]
    first, *others = zip(cells, widths, strict=False)
    aligned = (f"{cell:>{width}}" for cell, width in others)
    return " ".join((f"{first[0]:<{first[1]}}", *aligned)).rstrip()


def _describe_point(point: Point) -> dict[str, Any]:
    server = point.server
    return {
        "load": _describe_load(point.load),
        "elapsed_s": point.elapsed_s,
        "offered_images_per_s": point.offered_images_per_s,
        "images_per_s": point.images_per_s,
        "calls_per_s": point.calls_per_s,
        **_describe_counts(point.sum),
        "kinds": [
            _describe_kind(request_kind, tally)
            for request_kind, tally in zip(point.mix.kinds, point.kinds, strict=True)
        ],
        "client_ms_per_call": point.client_ms_per_call,
        "clients": [_describe_effort(effort) for effort in point.efforts],
        "server": server and asdict(server),
        "verified": asdict(point.verified),
    }


def _describe_load(load: Load) -> dict[str, Any]:
    return {"kind": "closed" if isinstance(load, Closed) else "open", **asdict(load)}


def _describe_kind(request_kind: RequestKind, tally: Counts) -> dict[str, Any]:
    return {
        "ask": request_kind.model_dump(by_alias=True),
        **_describe_counts(tally),
        "histogram": tally.latency.encode(),
        "first_chunk_histogram": tally.first_chunk.encode(),
    }


def _describe_counts(tally: Counts) -> dict[str, Any]:
    return {
        "asked_calls": tally.asked_calls,
        "asked_images": tally.asked_images,
        "calls": tally.calls,
        "images": tally.images,
        "cut_streams": tally.cut_streams,
        "shed": dict(tally.shed),
        "failed": dict(tally.failed),
        "latency_ms": _compute_quantiles(tally.latency),
        "first_chunk_ms": _compute_quantiles(tally.first_chunk),
    }


def _compute_quantiles(latencies: Latencies) -> dict[str, float | int | None]:
    found = {name: latencies.compute_quantile_ms(q) for name, q in _QUANTILES.items()}
    return {"count": len(latencies), "mean": latencies.compute_mean_ms(), **found}


def _describe_effort(effort: ClientCost) -> dict[str, float | int | None]:
    return {
        "calls": effort.calls,
        "cpu_s": effort.cpu_s,
        "busy": effort.busy,
        "lag_p99_ms": effort.lag.compute_quantile_ms(0.99),
        "late_p99_ms": effort.late.compute_quantile_ms(0.99),
    }
