"""Writes the record of a comparison as Markdown tables into docs/performance.md.

`benchmarks/serving.py` makes the record. This command replaces the tables of the page:

    python benchmarks/side_by_side.py
"""

import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks/results/side-by-side.json"
PAGE = ROOT / "docs/performance.md"
SCHEMA = "imagemint.side-by-side/1"
BEGIN = "<!-- Written by `python benchmarks/side_by_side.py` from the record. -->"
END = "<!-- End of what it writes. -->"
_CLIENT_LIMIT = "†"
_REASON_LENGTH = 300
# Machines vary by less than this within a run.
_STEADY = 1.5


@dataclass(frozen=True)
class Sample:
    """One timed measurement of one workload.

    Attributes:
        images_per_s: throughput.
        raw_images_per_s: throughput of ONNX Runtime alone, measured just before and after.
        raw_arrangement: sessions and threads of the raw limit; the better of before and after.
        raw_single_ms: median time of one image in the fastest bare session, before or after.
        p50_ms: median latency of a call, or of a chunk of a stream.
        p99_ms: 99th percentile of that latency.
        first_chunk_ms: median time to the first chunk of a stream; None without streams.
        shed: calls that the server refused because of load.
        failed: calls that failed otherwise.
        client_ms_per_call: CPU time of the load generator per call.
        client_limit: why the load generator was the limit; None if it was not.
    """

    images_per_s: float
    raw_images_per_s: float
    raw_arrangement: str
    raw_single_ms: float
    p50_ms: float
    p99_ms: float
    first_chunk_ms: float | None
    shed: int
    failed: int
    client_ms_per_call: float
    client_limit: str | None

    @property
    def ratio(self) -> float:
        """Throughput as a share of the raw limit."""
        return self.images_per_s / self.raw_images_per_s


@dataclass
class Visit:
    """One run of one server, from its start to its stop.

    Attributes:
        ready_s: seconds from the start until the first correct answer.
        memory_bytes: proportional set size of all its processes after the load.
        processes: number of its processes.
        samples: measurements by workload.
        faults: why there is no sample, by workload.
    """

    ready_s: float
    memory_bytes: int = 0
    processes: int = 0
    samples: dict[str, Sample] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """All results of one server.

    Attributes:
        title: name in the tables.
        protocol: protocol of the requests.
        packages: versions by name of the package.
        install_bytes: size of the package with all its dependencies.
        visits: one for each round in which it started.
        reasons: why it did not run, for each failed start.
    """

    title: str
    protocol: str
    packages: dict[str, str]
    install_bytes: int
    visits: list[Visit] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass
class Record:
    """A comparison.

    Attributes:
        command: command line that made the record.
        machine: description of the machine.
        model: name of the bundle.
        seconds: length of each measurement.
        repeats: number of rounds over all servers.
        workloads: names of the workloads, in order.
        servers: results by name of the server, in order.
    """

    command: str
    machine: dict[str, Any]
    model: str
    seconds: float
    repeats: int
    workloads: list[str]
    servers: dict[str, Entry]

    def write(self, path: Path) -> None:
        """Writes the record as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": SCHEMA} | asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Reads a record from a file.

        Raises:
            ValueError: the file has another schema.
        """
        content = json.loads(path.read_text())
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"{path} is not a record of schema {SCHEMA}")
        servers = {name: _read_entry(each) for name, each in content.pop("servers").items()}
        return cls(**content, servers=servers)


def _read_entry(content: dict[str, Any]) -> Entry:
    visits = [
        Visit(**each | {"samples": {n: Sample(**s) for n, s in each["samples"].items()}})
        for each in content["visits"]
    ]
    return Entry(**content | {"visits": visits})


def render_tables(record: Record) -> str:
    """Returns the record in Markdown: a table per workload, a table of resources, and notes."""
    lines: list[str] = []
    for workload in record.workloads:
        lines += [f"**{workload}**", "", *_render_workload(record, workload), ""]
    lines += ["**Resources**", "", *_render_resources(record), "", *_render_notes(record)]
    machine = ", ".join(f"{key} {value}" for key, value in record.machine.items())
    lines.append(
        f"Medians of {_format_count(record.repeats, 'round')}, {record.seconds:g} s per row, model"
        f" `{record.model}`; {machine}; `{record.command}`."
    )
    return "\n".join(lines)


def _render_workload(record: Record, workload: str) -> Iterator[str]:
    yield "| server | images/s | share of R (min to max) | p50 ms | p99 ms |"
    yield "|---|---:|---:|---:|---:|"
    for entry in record.servers.values():
        found = [v.samples[workload] for v in entry.visits if workload in v.samples]
        if not found:
            yield f"| {entry.title} | - | - | - | - |"
            continue
        mark = _CLIENT_LIMIT if any(each.client_limit for each in found) else ""
        ratios = sorted(each.ratio for each in found)
        cells = [
            entry.title + mark,
            f"{_compute_median(found, lambda s: s.images_per_s):,.0f}",
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{_compute_median(found, lambda s: s.p50_ms):.1f}",
            f"{_compute_median(found, lambda s: s.p99_ms):.1f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _render_resources(record: Record) -> Iterator[str]:
    yield "| server | version | protocol | ready s | memory MB | processes | installed MB |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for entry in record.servers.values():
        version = next(iter(entry.packages.values()), "-")
        installed = f"{entry.install_bytes / 1e6:,.0f}" if entry.install_bytes else "-"
        resources = ["-", "-", "-"]
        if entry.visits:
            resources = [
                f"{_compute_median(entry.visits, lambda v: v.ready_s):.1f}",
                f"{_compute_median(entry.visits, lambda v: v.memory_bytes) / 1e6:,.0f}",
                f"{_compute_median(entry.visits, lambda v: v.processes):.0f}",
            ]
        cells = [entry.title, version, entry.protocol, *resources, installed]
        yield "| " + " | ".join(cells) + " |"


def _render_notes(record: Record) -> Iterator[str]:
    """Yields the lines of notes about failures and noise."""
    every = [
        (entry.title, workload, sample)
        for entry in record.servers.values()
        for visit in entry.visits
        for workload, sample in visit.samples.items()
    ]
    if any(sample.client_limit for *_, sample in every):
        yield f"{_CLIENT_LIMIT} The client was the limit at least once; the server may be faster."
        yield ""
    limits = [sample.raw_images_per_s for *_, sample in every]
    if limits and max(limits) > _STEADY * min(limits):
        yield (
            f"R itself varied from {min(limits):,.0f} to {max(limits):,.0f} images/s because other"
            " work shared the cores, so the figures are rough."
        )
        yield ""
    notes = {
        f"{entry.title} did not run: {reason}"
        for entry in record.servers.values()
        for reason in entry.reasons
    }
    notes |= {
        f"{entry.title}, {workload}: {why}"
        for entry in record.servers.values()
        for visit in entry.visits
        for workload, why in visit.faults.items()
    }
    for title, workload, sample in every:
        if sample.failed or sample.shed:
            notes.add(f"{title}, {workload}: {sample.shed} calls shed, {sample.failed} failed")
    for note in sorted(notes):
        yield f"- {note}"
    if notes:
        yield ""


def _compute_median(values: Sequence[T], of: Callable[[T], float]) -> float:
    return statistics.median(map(of, values))


def _format_count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count > 1 else "")


def strip_local_details(reason: str) -> str:
    """Returns the end of a reason, without the folders and addresses of this machine."""
    text = re.sub(r"https?://\S+", "(address)", " ".join(reason.split()))
    text = re.sub(r"(?:/[\w.+@-]+)+/", "", text)
    return text if len(text) <= _REASON_LENGTH else f"... {text[-_REASON_LENGTH:]}"


def replace_tables(text: str, record: Record) -> str:
    """Returns the page with its tables replaced by those of a record.

    Raises:
        ValueError: the page lacks the markers around the tables.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the markers around the tables")
    return f"{before}{BEGIN}\n\n{render_tables(record)}\n\n{END}{after}"


def main() -> None:
    """Writes the tables into docs/performance.md."""
    PAGE.write_text(replace_tables(PAGE.read_text(), Record.read(RECORD)))


if __name__ == "__main__":
    main()
