"""The record of a comparison, as tables, and the part of docs/performance.md that shows them.

`benchmarks/serving.py` makes the record. This writes the tables where the page keeps them:

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
# More than machines drift by within a run.
_STEADY = 1.5


@dataclass(frozen=True)
class Sample:
    """One timed stretch of one workload.

    Attributes:
        images_per_s: throughput.
        raw_images_per_s: of ONNX Runtime alone, measured just before and after.
        raw_arrangement: which sessions and threads that was, the better of before and after.
        raw_single_ms: median time of one image in the fastest bare session, likewise.
        p50_ms: median latency of a call, or of a chunk of a stream.
        p99_ms: its 99th percentile.
        first_chunk_ms: median time to the first chunk of a stream; None without streams.
        shed: calls that the server refused because of load.
        failed: calls that failed otherwise.
        client_ms_per_call: CPU time of the load generator by the number of calls.
        client_limit: why the load generator was the limit, in words; None if it was not.
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
        """Share of the raw limit."""
        return self.images_per_s / self.raw_images_per_s


@dataclass
class Visit:
    """One life of one server: started, measured, stopped.

    Attributes:
        ready_s: from its start until the first right answer.
        memory_bytes: proportional set size of all its processes after the load.
        processes: how many those were.
        samples: by workload.
        faults: why there is no sample, by workload.
    """

    ready_s: float
    memory_bytes: int = 0
    processes: int = 0
    samples: dict[str, Sample] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """What was found of one server.

    Attributes:
        title: its name.
        protocol: how it was asked.
        packages: versions.
        install_bytes: of the distribution with all that it requires.
        visits: one for each repeat in which it came up.
        reasons: why it did not run, for each time.
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
        command: that made it.
        machine: it ran on.
        model: name of the bundle.
        seconds: of each timed stretch.
        repeats: rounds over all servers.
        workloads: names, in order.
        servers: by name, in order.
    """

    command: str
    machine: dict[str, Any]
    model: str
    seconds: float
    repeats: int
    workloads: list[str]
    servers: dict[str, Entry]

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": SCHEMA} | asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Returns the record in a file.

        Raises:
            ValueError: of another schema.
        """
        content = json.loads(path.read_text())
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"{path} is no record of {SCHEMA}")
        servers = {name: _entry(each) for name, each in content.pop("servers").items()}
        return cls(**content, servers=servers)


def _entry(content: dict[str, Any]) -> Entry:
    visits = [
        Visit(**each | {"samples": {n: Sample(**s) for n, s in each["samples"].items()}})
        for each in content["visits"]
    ]
    return Entry(**content | {"visits": visits})


def tables(record: Record) -> str:
    """Returns the record in Markdown: a table for each workload, one of the servers, and notes."""
    lines: list[str] = []
    for workload in record.workloads:
        lines += [f"**{workload}**", "", *_workload(record, workload), ""]
    lines += ["**What it takes**", "", *_footprint(record), "", *_notes(record)]
    machine = ", ".join(f"{key} {value}" for key, value in record.machine.items())
    lines.append(
        f"Medians of {_counted(record.repeats, 'round')}, {record.seconds:g} s a row, model"
        f" `{record.model}`; {machine}; `{record.command}`."
    )
    return "\n".join(lines)


def _workload(record: Record, workload: str) -> Iterator[str]:
    yield "| server | images/s | of R (least to most) | p50 ms | p99 ms |"
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
            f"{_median(found, lambda s: s.images_per_s):,.0f}",
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{_median(found, lambda s: s.p50_ms):.1f}",
            f"{_median(found, lambda s: s.p99_ms):.1f}",
        ]
        yield "| " + " | ".join(cells) + " |"


def _footprint(record: Record) -> Iterator[str]:
    yield "| server | version | asked by | ready s | memory MB | processes | installed MB |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for entry in record.servers.values():
        version = next(iter(entry.packages.values()), "-")
        installed = f"{entry.install_bytes / 1e6:,.0f}" if entry.install_bytes else "-"
        took = ["-", "-", "-"]
        if entry.visits:
            took = [
                f"{_median(entry.visits, lambda v: v.ready_s):.1f}",
                f"{_median(entry.visits, lambda v: v.memory_bytes) / 1e6:,.0f}",
                f"{_median(entry.visits, lambda v: v.processes):.0f}",
            ]
        cells = [entry.title, version, entry.protocol, *took, installed]
        yield "| " + " | ".join(cells) + " |"


def _notes(record: Record) -> Iterator[str]:
    """What the tables cannot say, each as a paragraph."""
    every = [
        (entry.title, workload, sample)
        for entry in record.servers.values()
        for visit in entry.visits
        for workload, sample in visit.samples.items()
    ]
    if any(sample.client_limit for *_, sample in every):
        yield f"{_CLIENT_LIMIT} The client was the limit at least once: the server may do more."
        yield ""
    limits = [sample.raw_images_per_s for *_, sample in every]
    if limits and max(limits) > _STEADY * min(limits):
        yield (
            f"R itself ran from {min(limits):,.0f} to {max(limits):,.0f} images/s: other work"
            " shared the cores, and rows are rough."
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


def _median(values: Sequence[T], of: Callable[[T], float]) -> float:
    return statistics.median(map(of, values))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count > 1 else "")


def publishable(reason: str) -> str:
    """Returns the end of a reason without what is of this machine alone: folders and addresses."""
    text = re.sub(r"https?://\S+", "(address)", " ".join(reason.split()))
    text = re.sub(r"(?:/[\w.+@-]+)+/", "", text)
    return text if len(text) <= _REASON_LENGTH else f"... {text[-_REASON_LENGTH:]}"


def page(text: str, record: Record) -> str:
    """Returns the page with the tables of a record in their place.

    Raises:
        ValueError: it has no place for them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has lost its marks")
    return f"{before}{BEGIN}\n\n{tables(record)}\n\n{END}{after}"


def main() -> None:
    """Writes the tables into docs/performance.md."""
    PAGE.write_text(page(PAGE.read_text(), Record.read(RECORD)))


if __name__ == "__main__":
    main()
